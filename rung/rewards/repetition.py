"""A penalty for saying the same again: penalty * (1 - distinct n-grams / all n-grams), so 0 for varied text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rung.errors import UserError
from rung.rewards.score import Attempt, Failure, Score, Verdict


def repeated_share(items: tuple, n: int) -> float:
    """The share of n-grams that stood before: 0 for all different, towards 1 for one thing over and over."""
    total = len(items) - n + 1
    return 1 - len({items[i : i + n] for i in range(total)}) / total if total > 0 else 0.0


@dataclass(frozen=True)
class Repetition:
    """Between `penalty` (repeats only) and 0. Without it, a length reward is collected by repeating.

    Source: arXiv 2502.03373, the sparse form of its code (words, n = 20), which there touches only wrong
    answers; here it touches all.
    """

    n: int = 20
    penalty: float = -1.0
    of: Literal["words", "tokens"] = "words"
    trusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n < 1 or self.penalty > 0:
            raise UserError(
                f"n-grams of {self.n} with penalty {self.penalty}; n is at least 1, the penalty at most 0"
            )

    def __call__(self, attempt: Attempt) -> Verdict:
        if self.of == "tokens" and attempt.answer and not attempt.token_ids:
            return Failure("invalid", "the attempt has text and no token ids; count n-grams of words")
        items = attempt.token_ids if self.of == "tokens" else tuple(attempt.answer.lower().split())
        return Score(self.penalty * repeated_share(items, self.n))
