"""What a reward says of an attempt: a Score, an Abstain, or a Failure, and never a silent zero.

A reward is a function `Attempt -> Verdict`. A wrong answer is a Score of 0; a judge that cannot tell
Abstains; a grader that crashed, hung or returned nonsense is a Failure, which says nothing of the model.
Only Scores become credit: attempts without one leave their group before its mean is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Attempt:
    """All that a reward may look at: what was asked, what was answered, what is right. No tensors."""

    prompt: tuple[Mapping[str, Any], ...]  # the messages the model was given
    answer: str  # the model's last turn, as text
    reference: Any = None  # what the task says is right, in the task's own form
    tokens: int = 0  # tokens the model wrote, over all its turns
    truncated: bool = False  # it ran into its token limit
    messages: tuple[Mapping[str, Any], ...] = ()  # what followed the prompt, every turn of it
    token_ids: tuple[int, ...] = ()  # of the model's last turn, for rewards about repetition
    task: str = ""  # the task's key
    extra: Mapping[str, Any] = field(default_factory=dict)  # further columns of the task's row


@dataclass(frozen=True)
class Score:
    """A number, and the named parts it was made of, each logged."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bad = [v for v in (self.value, *self.parts.values()) if not math.isfinite(v)]
        if bad:
            raise ValueError(f"a score must be finite, and this one holds {bad[0]}; return a Failure instead")


@dataclass(frozen=True)
class Abstain:
    """The grader cannot tell: a judge's tie, an answer outside what it understands."""

    reason: str


@dataclass(frozen=True)
class Failure:
    """The grader itself failed."""

    kind: Literal["timeout", "memory", "crash", "exception", "invalid"]
    detail: str = ""


Verdict = Score | Abstain | Failure
Reward = Callable[[Attempt], Verdict]
