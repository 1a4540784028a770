"""A reward in worker processes of its own, to stand in a sum beside one that cannot leave this process.

A weighted sum goes to the workers as a whole as soon as one of its terms is not trusted. A reward model or a judge
cannot go there: it holds weights, or what was judged. So where the two meet, the other one alone is sent away.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rung.rewards.calling import is_trusted
from rung.rewards.score import Attempt, Reward, Verdict
from rung.rewards.workers import Graders


@dataclass(frozen=True)
class Apart:
    """Made by `apart`."""

    graders: Graders
    trusted: ClassVar[bool] = True  # what it runs can be killed
    batched: ClassVar[bool] = True  # all workers at once

    def __call__(self, attempt: Attempt) -> Verdict:
        return self.many([attempt])[0]

    def many(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        return self.graders.grade(attempts)


def apart(reward: Reward, **limits: Any) -> Reward:
    """The reward itself if it is trusted; else one that asks it in processes that end when nobody holds it any more."""
    if is_trusted(reward):
        return reward
    found = Apart(Graders(reward, **limits))
    weakref.finalize(found, found.graders.close)
    return found
