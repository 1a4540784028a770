"""Two models on the same tasks. What is compared is the difference task by task, never two bare means.

Tasks differ in difficulty far more than models do, and a difference within the task does not see that. The
unit is the task: several attempts at one are averaged first.

    one attempt each, right or wrong   McNemar's exact test; Newcombe's interval of the difference (1998)
    anything else                      sign-flip permutation test; BCa bootstrap over tasks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import comb, sqrt

import numpy as np

from rung.errors import UserError
from rung.eval.intervals import DRAWS, Estimate, bootstrap, wilson

EXACT_UP_TO = 14  # tasks that differ: 2^14 sign patterns are written out, beyond that they are drawn
FLIPS = 10_000


@dataclass(frozen=True)
class Comparison:
    """`difference` is other - base. `p` is two-sided, under "which model is which does not matter"."""

    difference: Estimate
    p: float
    test: str
    tasks: int
    wins: int  # tasks where other is ahead
    losses: int
    left_out: int  # tasks that only one of the two has a scored attempt at

    def __str__(self) -> str:
        counts = f"{self.wins} ahead, {self.losses} behind of {self.tasks} tasks"
        return f"{self.difference}  p = {self.p:.3g} ({self.test}; {counts})"


def compare(
    base: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]], seed: int = 0
) -> Comparison:
    """Scores of each task's attempts, under the task's key. Unscored attempts are not in the lists."""
    tasks = sorted(key for key in base.keys() & other.keys() if len(base[key]) and len(other[key]))
    everything = {key for part in (base, other) for key in part}
    if not tasks:
        raise UserError(
            f"the two have no scored task in common ({len(base)} and {len(other)} tasks); "
            "a paired comparison needs both models on the same tasks"
        )
    first = np.array([np.mean(base[key]) for key in tasks])
    second = np.array([np.mean(other[key]) for key in tasks])
    difference = second - first
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    values = {float(v) for key in tasks for part in (base, other) for v in part[key]}
    single = all(len(part[key]) == 1 for key in tasks for part in (base, other))
    if single and values <= {0.0, 1.0}:
        both = int(((first == 1) & (second == 1)).sum())
        interval = newcombe(both, losses, wins, len(tasks) - both - wins - losses)
        p, test = sign_test(wins, losses), "McNemar exact"
    else:
        interval = mean_difference(difference, values, seed)
        p, test = sign_flip(difference, seed), "sign flip"
    return Comparison(interval, p, test, len(tasks), wins, losses, len(everything) - len(tasks))


def mean_difference(difference: np.ndarray, values: set[float], seed: int = 0) -> Estimate:
    """BCa over tasks. If every task differs by the same amount, resampling sees no spread: then up to a share
    w of tasks (Wilson's upper end for none seen) could differ from it by all that the values span."""
    found = bootstrap(lambda units: difference[units].mean(), len(difference), DRAWS, seed)
    if found.low < found.high:
        return found
    span = max(max(values), 1.0) - min(min(values), 0.0)
    slack = wilson(0, len(difference))[1] * span
    return Estimate(found.value, max(found.value - slack, -span), min(found.value + slack, span))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided and exact: wins ~ Binomial(wins + losses, 1/2). On right-or-wrong pairs this is McNemar."""
    trials = wins + losses
    tail = sum(comb(trials, i) for i in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**trials)


def sign_flip(difference: np.ndarray, seed: int = 0) -> float:
    """P(|mean| as large as seen) when the sign of each task's difference is a coin. Exact for few tasks."""
    difference = difference[difference != 0]
    seen, count = abs(difference.sum()) * (1 - 1e-12), len(difference)
    if count <= EXACT_UP_TO:
        sums = np.array(list(product((-1, 1), repeat=count))) @ difference
        return float(np.mean(np.abs(sums) >= seen))
    generator = np.random.default_rng(seed)
    blocks = [generator.integers(0, 2, (500, count), dtype=np.int8) * 2 - 1 for _ in range(FLIPS // 500)]
    hits = sum(int((np.abs(block @ difference) >= seen).sum()) for block in blocks)
    return (hits + 1) / (FLIPS + 1)  # what was seen is one of the patterns, so p is never 0


def newcombe(both: int, only_base: int, only_other: int, neither: int) -> Estimate:
    """The difference of two paired proportions: their Wilson arms added at the angle of their correlation."""
    total = both + only_base + only_other + neither
    first, second = both + only_base, both + only_other
    (low1, high1), (low2, high2) = wilson(first, total), wilson(second, total)
    p1, p2 = first / total, second / total
    cross = float(both * neither - only_base * only_other)
    if cross > 0:
        cross = max(cross - total / 2, 0)
    scale = sqrt(float(first) * (total - first) * second * (total - second))
    phi = cross / scale if scale else 0.0

    def arm(a: float, b: float) -> float:
        return sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    value = p2 - p1
    return Estimate(value, value - arm(p2 - low2, high1 - p1), value + arm(high2 - p2, p1 - low1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment: of many tasks one is always worst, and its p must pay for the choice."""
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
