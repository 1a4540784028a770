"""The simple findings, one rule each: what an unhealthy group or round is, and what share of it is tolerated.

A rule turns a round into items in [0, 1], 1 for the trouble it looks for; its null hypothesis is that in every
round the mean item is at most `tolerated`. Rules that speak of change compare with the first rounds of the run,
`Start`, as they were observed. What honest training does by itself is not trouble: entropy that falls as tasks get
solved, answers that grow while reward grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rung.diagnose.facts import Facts, GroupFacts

START_ROUNDS = 5
Severity = Literal["warn", "stop"]


@dataclass(frozen=True)
class Start:
    """How the run began, and the extremes of reward so far."""

    entropy: float = float("nan")
    short: float = 0.0  # a tenth of the groups were shorter
    long: float = float("inf")  # a tenth were longer
    reward: float = float("nan")
    repetition: float = 0.0
    best: float = float("-inf")
    worst: float = float("inf")

    @property
    def middle(self) -> float:
        """Between the best and the worst reward seen: above it lies success, whatever the reward's scale."""
        return (self.best + self.worst) / 2


@dataclass(frozen=True)
class Rule:
    name: str
    severity: Severity
    items: Callable[[Facts, Start], Sequence[float]]
    tolerated: Callable[[Start], float]
    trouble: str  # completes "in the last rounds 83 % of ..."
    remedy: str
    needs_start: bool = False


def start_of(groups: Sequence[GroupFacts]) -> Start:
    entropies = [g.entropy for g in groups if g.entropy == g.entropy]
    rewards = [g.reward for g in groups if g.rewards]
    lengths = [g.length for g in groups]
    short, long = np.quantile(lengths, [0.1, 0.9]) if lengths else (0.0, float("inf"))
    return Start(
        entropy=float(np.mean(entropies)) if entropies else float("nan"),
        short=float(short),
        long=float(long),
        reward=float(np.mean(rewards)) if rewards else float("nan"),
        repetition=float(np.mean([g.repetition for g in groups])) if groups else 0.0,
    )


# ---- items ----


def dead(facts: Facts, start: Start) -> list[float]:
    return [float(group.dead) for group in facts.groups]


def truncated(facts: Facts, start: Start) -> list[float]:
    return [group.truncated for group in facts.groups]


def collapsed(facts: Facts, start: Start) -> list[float]:
    """Hardly any choice left where it is still needed: a tenth of the first entropy, in the lower half of rewards."""
    return [float(g.entropy < 0.1 * start.entropy and g.reward < start.middle) for g in facts.groups]


def drifted(facts: Facts, start: Start) -> list[float]:
    """Over twice as long as long was, or under half as short as short was, and no better for it."""
    return [
        float((g.length > 2 * start.long or g.length < start.short / 2) and g.reward <= start.reward)
        for g in facts.groups
    ]


def repeats(facts: Facts, start: Start) -> list[float]:
    return [group.repetition for group in facts.groups]


def repeats_tolerated(start: Start) -> float:
    """Some echo is natural in long answers; beyond 60 % it is a loop, even in a model that began so."""
    return float(np.clip(start.repetition + 0.15, 0.3, 0.6))


def failures(facts: Facts, start: Start) -> list[float]:
    """One item a round, for graders fail together: attempts of a round are not independent here."""
    return [facts.failures]


def mismatch_above(limit: float) -> Callable[[Facts, Start], list[float]]:
    def items(facts: Facts, start: Start) -> list[float]:
        return [] if facts.mismatch is None else [float(not facts.mismatch <= limit)]

    return items


def always(value: float) -> Callable[[Start], float]:
    return lambda start: value


# ---- the table ----

TOO_FEW = "filter tasks by pass rate or sample dynamically"
CUT = "raise max_tokens, or shape the reward of overlong answers; check that the model knows its stop token"
GRADER = "read the failures (rung rollouts RUN --failed); a grader that fails says nothing of the model"
SAMPLER = "check dtypes and sampling parameters of sampler and trainer, and that weights arrive; correct with TIS or MIS"
UNEQUAL = "groups had no two different rewards, so no gradient"
ENDED = "answers were cut off by the token limit"
UNGRADED = "attempts had no verdict because the grader failed"

RULES = (
    Rule("dead groups", "warn", dead, always(0.7), UNEQUAL, TOO_FEW),
    Rule("dead groups", "stop", dead, always(0.95), UNEQUAL, TOO_FEW),
    Rule("truncated", "warn", truncated, always(0.5), ENDED, CUT),
    Rule("truncated", "stop", truncated, always(0.95), ENDED, CUT),
    Rule(
        "entropy collapse",
        "warn",
        collapsed,
        always(0.3),
        "groups had less than a tenth of the first rounds' entropy and rewards in the lower half",
        "lower the learning rate or the updates per round, raise clip-higher, add an entropy bonus or a KL term",
        needs_start=True,
    ),
    Rule(
        "length drift",
        "warn",
        drifted,
        always(0.5),
        "groups were over twice as long or under half as short as in the first rounds, and no better for it",
        "read the longest (rung rollouts RUN --sort length); use a token-level loss without 1/length, or shape length",
        needs_start=True,
    ),
    Rule(
        "repetition",
        "warn",
        repeats,
        repeats_tolerated,
        "4-grams of an answer had occurred in it before",
        "read some (rung rollouts RUN --sort length); add the n-gram penalty to the reward, check truncation",
        needs_start=True,
    ),
    Rule("reward errors", "warn", failures, always(0.05), UNGRADED, GRADER),
    Rule("reward errors", "stop", failures, always(0.3), UNGRADED, GRADER),
    Rule(
        "rollout-training mismatch",
        "warn",
        mismatch_above(0.02),
        always(0.2),
        "rounds had sampler and trainer over 0.02 nats per token apart",
        SAMPLER,
    ),
    Rule(
        "rollout-training mismatch",
        "stop",
        mismatch_above(0.2),
        always(0.2),
        "rounds had sampler and trainer over 0.2 nats per token apart",
        SAMPLER,
    ),
)
