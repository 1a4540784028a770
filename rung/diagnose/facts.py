"""What a round of rollouts was like: a dict of numbers to log, and the facts that `Health` watches.

Both are pure functions of graded rollouts; the held-out verifier, the KL to the start and the mismatch between
sampler and trainer are measured elsewhere and handed in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rung.rewards.score import Abstain, Failure, Score
from rung.rollouts.store import Graded

NGRAM = 4


@dataclass(frozen=True)
class GroupFacts:
    """The attempts at one prompt in one round. Means are over attempts."""

    rewards: tuple[float, ...]  # of the attempts that got a score
    length: float  # tokens the model wrote
    truncated: float  # share
    entropy: float  # nats per token; nan if the model wrote none
    repetition: float  # share of n-grams seen before

    @property
    def dead(self) -> bool:
        """No two rewards differ, so that no attempt is better than another and the group has no gradient."""
        return not self.rewards or spread(self.rewards) == 0.0

    @property
    def reward(self) -> float:
        return float(np.mean(self.rewards)) if self.rewards else float("nan")


@dataclass(frozen=True)
class Facts:
    """One round, as `Health.feed` wants it."""

    round: int
    groups: tuple[GroupFacts, ...]
    failures: float = 0.0  # share of attempts whose grader failed
    heldout: tuple[float, ...] | None = (
        None  # scores in [0, 1] of a verifier that is not the reward, if measured
    )
    kl: float | None = None  # nats per token to the policy at the start, if measured
    mismatch: float | None = None  # nats per token between sampler and trainer, the same weights, if measured
    parts: Mapping[str, float] = field(default_factory=dict)  # mean of each part of the reward


def facts_of(
    round: int,
    records: Sequence[Graded],
    *,
    heldout: Sequence[float] | None = None,
    kl: float | None = None,
    mismatch: float | None = None,
) -> Facts:
    """The facts of a round. `mismatch`, if not given, is measured where the records allow it."""
    if heldout is not None and any(not 0 <= score <= 1 for score in heldout):
        raise ValueError("held-out scores lie in [0, 1]: they are shares of what is right, not rewards")
    return Facts(
        round=round,
        groups=tuple(group_facts(group) for group in grouped(records)),
        failures=share(isinstance(record.verdict, Failure) for record in records),
        heldout=None if heldout is None else tuple(float(score) for score in heldout),
        kl=kl,
        mismatch=measured_mismatch(records) if mismatch is None else mismatch,
        parts=part_means(records),
    )


def round_facts(records: Sequence[Graded], full: float = 1.0) -> dict[str, float]:
    """The numbers to log for a round. A group is solved when every attempt of it got at least `full`.

    What cannot be said is left out, never 0: a round without a score has no mean reward.
    """
    if not records:
        return {}
    groups = [group_facts(group) for group in grouped(records)]
    scored = [group for group in groups if group.rewards]
    lengths = [int(record.rollout.by_model.sum()) for record in records]
    entropies = [e for record in records if (e := entropy_of(record)) == e]
    metrics = {
        "reward_failures": share(isinstance(record.verdict, Failure) for record in records),
        "reward_abstains": share(isinstance(record.verdict, Abstain) for record in records),
        "solved_groups": share(bool(group.rewards) and min(group.rewards) >= full for group in groups),
        "dead_groups": share(group.dead for group in groups),
        "response_length": float(np.mean(lengths)),
        "response_length_max": float(max(lengths)),
        "truncated_share": share(record.rollout.finish == "length" for record in records),
        "repetition": float(np.mean([repetition_of(record) for record in records])),
    }
    if scored:
        metrics["reward"] = float(np.mean([reward for group in scored for reward in group.rewards]))
        metrics["reward_std"] = float(np.mean([spread(group.rewards) for group in scored]))
    if entropies:
        metrics["rollout_entropy"] = float(np.mean(entropies))
    return metrics | {f"reward/{name}": value for name, value in part_means(records).items()}


# ---- of a group ----


def grouped(records: Sequence[Graded]) -> list[list[Graded]]:
    groups: dict[int, list[Graded]] = defaultdict(list)
    for record in records:
        groups[record.rollout.group].append(record)
    return list(groups.values())


def group_facts(group: Sequence[Graded]) -> GroupFacts:
    entropies = [e for record in group if (e := entropy_of(record)) == e]
    return GroupFacts(
        rewards=tuple(float(r.verdict.value) for r in group if isinstance(r.verdict, Score)),
        length=float(np.mean([record.rollout.by_model.sum() for record in group])),
        truncated=share(record.rollout.finish == "length" for record in group),
        entropy=float(np.mean(entropies)) if entropies else float("nan"),
        repetition=float(np.mean([repetition_of(record) for record in group])),
    )


def spread(rewards: Sequence[float]) -> float:
    """Standard deviation, exactly 0 where all are equal but for the last bits of a sum of parts."""
    low, high = min(rewards), max(rewards)
    return 0.0 if high - low <= 1e-9 * max(1.0, abs(low), abs(high)) else float(np.std(rewards))


def part_means(records: Sequence[Graded]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if isinstance(record.verdict, Score):
            for name, value in record.verdict.parts.items():
                values[name].append(float(value))
    return {name: float(np.mean(values[name])) for name in sorted(values)}


# ---- of a rollout; only what the model wrote ----


def entropy_of(record: Graded) -> float:
    own = record.rollout.entropy[record.rollout.by_model]
    return float(own.mean(dtype=np.float64)) if len(own) else float("nan")


def repetition_of(record: Graded) -> float:
    return repetition(record.rollout.token_ids[record.rollout.by_model].tolist())


def repetition(ids: Sequence[int], n: int = NGRAM) -> float:
    """Share of n-grams that occurred before: 0 for a text without echo, towards 1 for a loop."""
    total = len(ids) - n + 1
    if total <= 0:
        return 0.0
    return 1 - len(set(zip(*(ids[i:] for i in range(n)), strict=False))) / total


def measured_mismatch(records: Sequence[Graded]) -> float | None:
    """Mean over the model's tokens of r - 1 - log r, r = trainer's probability / sampler's: 0 when they agree.

    Only tokens that the round's newest weights wrote, for older ones differ because training moved on.
    """
    known = [r for r in records if r.old_logprob is not None and r.rollout.by_model.any()]
    if not known:
        return None
    newest = max(int(r.rollout.version[r.rollout.by_model].max()) for r in known)
    total, count = 0.0, 0
    for record in known:
        rollout = record.rollout
        which = rollout.by_model & (rollout.version == newest)
        assert record.old_logprob is not None
        log_ratio = record.old_logprob[which].astype(np.float64) - rollout.policy_logprob[which]
        total += float((np.expm1(log_ratio) - log_ratio).sum())
        count += int(which.sum())
    return total / count


def share(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0
