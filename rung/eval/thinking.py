"""Does more thinking help or hurt? Accuracy against thinking length (arXiv 2501.19393, 2507.14417).

Hard tasks make a model think longer and fail more often, so accuracy falls with length across tasks even where
thinking helps. The slope is therefore taken within tasks: each attempt against the mean of its own task. With
natural lengths it is still only an association; with forced budgets it is an effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rung.errors import UserError
from rung.eval.intervals import Estimate, bootstrap


@dataclass(frozen=True)
class ThinkingSlope:
    slope: Estimate  # change of accuracy when thinking doubles, within tasks; the interval is over tasks
    across: float  # the same slope with tasks mixed: what a bare scatter plot would show
    tasks: int  # whose attempts differ in length; the others say nothing

    @property
    def verdict(self) -> str:
        if self.slope.low > 0:
            return "more thinking helps"
        return "inverse scaling" if self.slope.high < 0 else "undecided"


def thinking_slope(
    tokens: Sequence[float], successes: Sequence[float], tasks: Sequence[str], seed: int = 0
) -> ThinkingSlope:
    """One entry per attempt: thinking tokens (counted from 1 up, so an empty thought is 1), success, task."""
    if not len(tokens) == len(successes) == len(tasks) or not len(tokens):
        raise UserError("thinking slopes need tokens, success and task of every attempt")
    x, y = np.log2(np.maximum(np.asarray(tokens, float), 1)), np.asarray(successes, float)
    _, task = np.unique(tasks, return_inverse=True)
    size = np.bincount(task)
    own_x, own_y = (v - (np.bincount(task, v) / size)[task] for v in (x, y))
    cross, spread = np.bincount(task, own_x * own_y), np.bincount(task, own_x**2)
    told = np.flatnonzero(spread > 1e-12)
    if len(told) < 2:
        raise UserError(
            f"{len(told)} of {len(size)} tasks have attempts of different thinking lengths; sample several "
            "attempts at each task, or force several budgets"
        )

    def slope(units: np.ndarray) -> float:
        return float(cross[told[units]].sum() / spread[told[units]].sum())

    mixed = x - x.mean()
    across = float(mixed @ (y - y.mean()) / (mixed @ mixed))
    return ThinkingSlope(bootstrap(slope, len(told), seed=seed), across, len(told))


@dataclass(frozen=True)
class BudgetForcing:
    control: float  # share of attempts whose thinking stayed within the bounds set for it
    scaling: float  # mean slope of accuracy between pairs of budgets, per 1000 tokens
    performance: float  # best accuracy of any budget


def budget_forcing(
    budgets: Sequence[float],
    accuracies: Sequence[float],
    tokens: Sequence[float],
    bounds: Sequence[tuple[float, float]],
) -> BudgetForcing:
    """The three numbers of s1: an accuracy per budget, and the thinking of every attempt with its bounds."""
    points = sorted(zip(budgets, accuracies, strict=True))
    pairs = [(a, b) for i, a in enumerate(points) for b in points[i + 1 :] if b[0] > a[0]]
    if not pairs or not tokens:
        raise UserError("budget forcing needs at least two different budgets and one attempt")
    within = [low <= count <= high for count, (low, high) in zip(tokens, bounds, strict=True)]
    slopes = [1000 * (b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs]
    return BudgetForcing(sum(within) / len(within), sum(slopes) / len(slopes), max(accuracies))
