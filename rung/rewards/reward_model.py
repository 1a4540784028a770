"""A reward model as a reward. The model itself is a function given from above: conversations to verdicts.

It sees messages, never the policy's tokens: what scores may have another tokenizer and another template, and
writes the conversation down in its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rung.rewards.score import Attempt, Verdict

Messages = tuple[Mapping[str, Any], ...]
ScoreAll = Callable[[Sequence[tuple[Messages, Messages]]], list[Verdict]]  # prompt and what followed it


@dataclass(frozen=True)
class ModelReward:
    """Scores of whole conversations, many at once."""

    score_all: ScoreAll
    trusted: ClassVar[bool] = True  # a forward pass ends, and needs the memory that is there already
    batched: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        return self.many([attempt])[0]

    def many(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        return self.score_all([(tuple(attempt.prompt), followed(attempt)) for attempt in attempts])


def followed(attempt: Attempt) -> Messages:
    """Every turn after the prompt."""
    return tuple(attempt.messages) or ({"role": "assistant", "content": attempt.answer},)
