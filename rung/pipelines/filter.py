"""Rows to the rows worth training on, cheap rules first, the judge last; every row dropped has the rule that fired.

    form -> length -> repetition -> leakage -> duplicates -> judge

A row that cannot be read, or that the judge gave no readable marks for, is dropped under a reason of its own: it has
not been shown to be good. Trouble of the judge's server drops nothing; the run stops, keeps what was judged, and the
same again goes on.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.data.dedupe import Duplicates
from rung.data.files import read_rows, scan
from rung.data.formats import parse_row
from rung.data.grams import words_of
from rung.data.rows import ConversationRow, LabelRow, PreferenceRow, Row, Side, TextRow
from rung.errors import UserError
from rung.eval.contamination import Index, build_index
from rung.rewards.asking import Ledger
from rung.rewards.judge import transcript
from rung.rewards.quality import Standard, quality_of
from rung.rewards.score import Abstain

INVISIBLE = re.compile(r"[\u200b\u200c\u2060\ufeff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
REPEAT = 5  # words of the n-grams that repetition is counted in
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Rules:
    min_words: int = 1  # of the answer
    max_words: int = 0  # 0: no limit
    repeated: float = 0.5  # largest share of the answer's n-grams that stood before in it
    likeness: float = 0.8  # of duplicates; 0: none are looked for
    whole: bool = True  # duplicates of prompt and answer together, else of the prompt alone
    held_out: tuple[str, ...] = ()  # files no n-gram of which may be in the data
    grams: int = 13  # words of such an n-gram


@dataclass(frozen=True)
class Kept:
    rows: list[dict[str, Any]]
    dropped: list[dict[str, Any]]  # origin, reason, row
    cleaned: int  # rows whose text was normalised

    @property
    def reasons(self) -> Counter[str]:
        return Counter(each["reason"] for each in self.dropped)


def filtered(
    spec: str,
    rules: Rules,
    judge: Ledger | None = None,
    standard: Standard | None = None,
    *,
    judge_tokens: int = 512,
    tell: Callable[[str], None] = lambda line: None,
) -> Kept:
    duplicates = Duplicates(rules.likeness) if rules.likeness else None
    index = build_index((text_of(*parts) for parts in held_out(rules.held_out)), rules.grams)
    passed: list[tuple[dict[str, Any], str, Messages, str]] = []
    places: list[str] = []  # origins of what the duplicates were told
    dropped: list[dict[str, Any]] = []
    cleaned = 0
    for raw, origin in scan(spec):
        if isinstance(raw, UserError):
            dropped.append({"origin": origin, "reason": "not readable", "detail": str(raw)})
            continue
        row = normalised(raw)
        cleaned += row != raw
        try:
            prompt, answer = question_and_answer(parse_row(row, origin))
        except UserError as error:  # a row of no known form is data, not a wrong command
            dropped.append({"origin": origin, "reason": "of no known form", "detail": str(error), "row": row})
            continue
        reason, detail = broken_rule(prompt, answer, rules, index)
        if not reason and duplicates:
            twin = duplicates.add(text_of(prompt, answer) if rules.whole else transcript(prompt))
            places.append(origin)
            if twin:
                reason = "exact duplicate" if twin.likeness == 1 else "near duplicate"
                detail = f"of {places[twin.place]}, likeness {twin.likeness:.2f}"
        if reason:
            dropped.append({"origin": origin, "reason": reason, "detail": detail, "row": row})
        else:
            passed.append((row, origin, prompt, answer))
    tell(f"rules      {len(passed):,} of {len(passed) + len(dropped):,} rows pass")
    if judge is None:
        return Kept([row for row, *_ in passed], dropped, cleaned)
    qualities = quality_of(judge, [(prompt, answer) for _, _, prompt, answer in passed], judge_tokens)
    judge.require_all()
    rows = []
    for (row, origin, *_), quality in zip(passed, qualities, strict=True):
        if isinstance(quality, Abstain):
            reason, marks = f"not judged: {quality.reason}", None
        else:
            reason, marks = (standard or Standard()).failure(quality), dict(quality.marks)
        if reason:
            dropped.append({"origin": origin, "reason": reason, "marks": marks, "row": row})
        else:
            rows.append({**row, "quality": marks})
    tell(f"judge      {len(rows):,} of {len(passed):,} rows pass, {judge.asked:,} questions asked now")
    return Kept(rows, dropped, cleaned)


def broken_rule(prompt: Messages, answer: str, rules: Rules, index: Index) -> tuple[str, str]:
    """The first rule that a row breaks, and what of it."""
    words = words_of(answer)
    if len(words) < rules.min_words:
        return "answer too short", f"{len(words)} words"
    if rules.max_words and len(words) > rules.max_words:
        return "answer too long", f"{len(words)} words"
    share = repeated_share(words)
    if share > rules.repeated:
        return "answer repeats itself", f"{share:.0%} of its {REPEAT}-grams stood before"
    if len(index.hashes) and text_of(prompt, answer) in index:
        return "leaks held-out data", f"a {rules.grams}-gram of it"
    return "", ""


def repeated_share(words: Sequence[str]) -> float:
    grams = [tuple(words[i : i + REPEAT]) for i in range(len(words) - REPEAT + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def normalised(value: Any) -> Any:
    """Composed Unicode (NFC), line ends as \\n, no invisible characters, no blanks at the ends of lines."""
    if isinstance(value, str):
        text = unicodedata.normalize("NFC", value).replace("\r\n", "\n").replace("\r", "\n")
        return re.sub(r"[ \t]+$", "", INVISIBLE.sub("", text), flags=re.MULTILINE)
    if isinstance(value, list):
        return [normalised(part) for part in value]
    return {key: normalised(part) for key, part in value.items()} if isinstance(value, dict) else value


def question_and_answer(row: Row) -> tuple[Messages, str]:
    """What was asked and the answer to judge: the last turn of a chat, the chosen one of a pair."""
    if isinstance(row, TextRow):
        return (), row.text
    if isinstance(row, ConversationRow):
        last = max(i for i, message in enumerate(row.messages) if message["role"] == "assistant")
        return row.messages[:last], str(row.messages[last].get("content") or "")
    if isinstance(row, PreferenceRow):
        return as_messages(row.prompt), as_text(row.chosen)
    assert not isinstance(row, LabelRow) or row.completion
    return as_messages(row.prompt), as_text(row.completion)


def as_messages(side: Side) -> Messages:
    return ({"role": "user", "content": side},) if isinstance(side, str) else side


def as_text(side: Side) -> str:
    return side if isinstance(side, str) else str(side[-1].get("content") or "")


def text_of(prompt: Messages, answer: str) -> str:
    return f"{transcript(prompt)}\n{answer}" if prompt else answer


def held_out(files: Sequence[str]):
    """(prompt, answer) of every row that must not be in the data."""
    for file in files:
        for row, origin in read_rows(file):
            yield question_and_answer(parse_row(row, origin))
