"""Is the answer the right text (`exact`), one that fits a pattern (`Regex`), the right letter (`Choice`)?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from rung.errors import UserError
from rung.rewards.extract import final_answer, marked_answer, without_thinking
from rung.rewards.score import Attempt, Failure, Score, Verdict


@dataclass(frozen=True)
class Exact:
    """1 if the final answer is the reference, or one of a list of references; runs of white space are one."""

    ignore_case: bool = False
    trusted: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        right = attempt.reference
        right = list(right) if isinstance(right, (list, tuple)) else [right]
        if not right or None in right:
            return Failure("invalid", "the task has no reference to compare with")
        given = self._plain(final_answer(attempt.answer))
        return Score(float(given in [self._plain(str(one)) for one in right]))

    def _plain(self, text: str) -> str:
        text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text


@dataclass(frozen=True)
class Regex:
    """1 if the pattern is found in what was said after thinking. Not trusted: a pattern can take for ever."""

    pattern: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UserError(f"the pattern {self.pattern!r} is no regular expression: {error}") from None

    def __call__(self, attempt: Attempt) -> Verdict:
        return Score(float(re.search(self.pattern, without_thinking(attempt.answer)) is not None))


@dataclass(frozen=True)
class Choice:
    """1 if the chosen letter is the right one: "B", "(b)", "B. Paris", "the answer is (B)", "\\boxed{\\text{B}}".

    The reference is a letter or its index from 0. Naming two letters is choosing none.
    """

    letters: str = "ABCD"
    trusted: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        right = attempt.reference
        if isinstance(right, int) and not isinstance(right, bool) and 0 <= right < len(self.letters):
            right = self.letters[right]
        right = right.strip(" ().").upper() if isinstance(right, str) else None
        if not right or right not in tuple(self.letters):
            return Failure(
                "invalid", f"the reference {attempt.reference!r} is none of the letters {self.letters}"
            )
        return Score(float(self.chosen(attempt.answer) == right))

    def chosen(self, text: str) -> str | None:
        marked = marked_answer(text)
        said = (without_thinking(text) if marked is None else marked).strip()
        said = re.sub(r"\\(?:text|mathrm|textbf)\s*\{", "{", said).strip("*_`'\" ${}")
        one = f"[{re.escape(self.letters)}]"
        opening = re.match(rf"(?:option |choice )?\(?({one})(?:[).:\]}}]|\s*$)", said, re.I)
        # Without a mark only what stands in brackets is a choice: "A" alone is mostly an article.
        alone = rf"(?<![\w'])({one})(?![\w'])" if marked is not None else rf"\(({one})\)"
        named = {letter.upper() for letter in re.findall(alone, said)}
        if opening is not None:
            named.add(opening.group(1).upper())
        return named.pop() if len(named) == 1 else None
