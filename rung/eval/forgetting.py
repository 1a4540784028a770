"""What training cost elsewhere: held-out text, distance from the base, tasks it was not trained on.

Everything is paired: the same documents, the same tasks, before and after. A change is shown with its
interval, and several tasks at once pay for being several (Holm), since of many one always looks worst.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

from rung.eval.intervals import Estimate, bootstrap
from rung.eval.paired import Comparison, compare, holm


@dataclass(frozen=True)
class PerplexityChange:
    before: float
    after: float
    ratio: Estimate  # after over before; the interval is over documents


def perplexity_change(
    before: Sequence[np.ndarray], after: Sequence[np.ndarray], seed: int = 0
) -> PerplexityChange:
    """Token log-probs of the same documents under both models. Perplexity is exp(-sum log p / tokens)."""
    lengths = np.array([len(each) for each in before])
    if not len(lengths) or [len(each) for each in after] != lengths.tolist() or not lengths.all():
        raise ValueError("both models must score the same documents, token by token, and none may be empty")
    first = np.array([each.sum() for each in before])
    gained = np.array([each.sum() for each in after]) - first
    rate = bootstrap(lambda units: -gained[units].sum() / lengths[units].sum(), len(lengths), seed=seed)
    old = exp(-first.sum() / lengths.sum())
    return PerplexityChange(
        old, old * exp(rate.value), Estimate(exp(rate.value), exp(rate.low), exp(rate.high))
    )


def kl_exact(new_logprobs_NV: np.ndarray, base_logprobs_NV: np.ndarray) -> np.ndarray:
    """KL(new | base) at each position, from whole distributions; words that `new` excludes count nothing."""
    weight = np.exp(new_logprobs_NV)
    gap = np.where(weight > 0, new_logprobs_NV - np.where(weight > 0, base_logprobs_NV, 0.0), 0.0)
    return np.sum(weight * gap, axis=-1)


@dataclass(frozen=True)
class KlEstimate:
    per_token: Estimate  # nats; the interval is over answers
    per_answer: float


def kl_from_samples(new: Sequence[np.ndarray], base: Sequence[np.ndarray], seed: int = 0) -> KlEstimate:
    """KL(new | base) from answers that `new` itself wrote, at temperature 1 and nothing cut.

    k3 = r - 1 - log r with r = p_base / p_new: unbiased like the plain mean of log p_new - log p_base, never
    negative. Answers of another model, or of a sharpened one, estimate something else.
    """
    lengths = np.array([len(each) for each in new])
    if not len(lengths) or [len(each) for each in base] != lengths.tolist() or not lengths.all():
        raise ValueError("both models must score the same answers, token by token, and none may be empty")
    gaps = [np.asarray(b, float) - np.asarray(n, float) for n, b in zip(new, base, strict=True)]
    sums = np.array([float(np.sum(np.expm1(gap) - gap)) for gap in gaps])
    found = bootstrap(lambda units: sums[units].sum() / lengths[units].sum(), len(sums), seed=seed)
    return KlEstimate(found, float(sums.mean()))


@dataclass(frozen=True)
class TaskChange:
    comparison: Comparison
    p_holm: float  # adjusted for the number of tasks looked at


def task_changes(
    before: Mapping[str, Mapping[str, Sequence[float]]],
    after: Mapping[str, Mapping[str, Sequence[float]]],
    seed: int = 0,
) -> dict[str, TaskChange]:
    """For each benchmark the paired change: `before[benchmark][task]` are the scores of its attempts."""
    names = [name for name in before if name in after]
    found = [compare(before[name], after[name], seed) for name in names]
    adjusted = holm([each.p for each in found])
    return {name: TaskChange(c, p) for name, c, p in zip(names, found, adjusted, strict=True)}


def pareto_front(points: Mapping[str, Sequence[float]]) -> list[str]:
    """Those that no other beats: at least as good in everything and better in something. Larger is better."""
    values = {name: np.asarray(point, float) for name, point in points.items()}
    return [
        name
        for name, mine in values.items()
        if not any((other >= mine).all() and (other > mine).any() for other in values.values())
    ]
