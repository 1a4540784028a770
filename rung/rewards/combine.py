"""A weighted sum of named rewards, every part of it logged.

    weighted(right=(1.0, Numeric()), form=(0.2, ThinkFormat()))

gives a Score whose parts are `right`, `form` (unweighted) and each one's own parts as `form/think`. If one part
Fails or Abstains so does the whole, and says which: a sum with a part missing is another reward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rung.errors import UserError
from rung.rewards.calling import is_trusted, judge_all
from rung.rewards.score import Abstain, Attempt, Failure, Reward, Score, Verdict


@dataclass(frozen=True)
class WeightedSum:
    """Made by `weighted`."""

    terms: tuple[tuple[str, float, Reward], ...]  # name, weight, reward

    def __post_init__(self) -> None:
        names = [name for name, _, _ in self.terms]
        if not names or len(set(names)) < len(names) or not all(math.isfinite(w) for _, w, _ in self.terms):
            raise UserError(
                f"a weighted sum of {[(name, weight) for name, weight, _ in self.terms]}; "
                "it needs at least one reward, names that differ and finite weights"
            )

    @property
    def trusted(self) -> bool:
        return all(is_trusted(reward) for _, _, reward in self.terms)

    @property
    def batched(self) -> bool:
        return any(getattr(reward, "batched", False) for _, _, reward in self.terms)

    def __call__(self, attempt: Attempt) -> Verdict:
        return self.many([attempt])[0]

    def many(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        columns = [judge_all(reward, attempts) for _, _, reward in self.terms]
        return [self._sum(verdicts) for verdicts in zip(*columns, strict=True)]

    def _sum(self, verdicts: Sequence[Verdict]) -> Verdict:
        named = [
            (name, weight, verdict) for (name, weight, _), verdict in zip(self.terms, verdicts, strict=True)
        ]
        for name, _, verdict in named:
            if isinstance(verdict, Failure):
                return Failure(verdict.kind, f"{name}: {verdict.detail}")
        for name, _, verdict in named:
            if isinstance(verdict, Abstain):
                return Abstain(f"{name}: {verdict.reason}")
        total, parts = 0.0, {}
        for name, weight, verdict in named:
            assert isinstance(verdict, Score)
            total += weight * verdict.value
            parts[name] = verdict.value
            parts |= {f"{name}/{part}": value for part, value in verdict.parts.items()}
        if not math.isfinite(total):
            return Failure("invalid", f"the weighted sum of {parts} is not finite")
        return Score(total, parts)


def weighted(**terms: tuple[float, Reward]) -> WeightedSum:
    """`weighted(name=(weight, reward), ...)`."""
    return WeightedSum(tuple((name, float(weight), reward) for name, (weight, reward) in terms.items()))
