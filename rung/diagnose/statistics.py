"""Small statistics that several detectors share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rung.diagnose.evidence import lower_bound


def upper_bound(mean: float, count: int, risk: float) -> float:
    """What the true mean of values in [0, 1] is below with probability at least 1 - risk."""
    return 1 - lower_bound(1 - mean, count, risk)


def at_least(hits: int, trials: int, chance: float) -> float:
    """P(so many hits or more) in independent trials, each a hit with probability `chance`."""
    log_hit, log_miss = math.log(chance), math.log1p(-chance)
    logs = (
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * log_hit
        + (trials - k) * log_miss
        for k in range(hits, trials + 1)
    )
    return min(math.fsum(map(math.exp, logs)), 1.0)


def fall_beyond(before: float, after: float, count: int, loss: float) -> float:
    """How surprising, in standard errors, means of `count` scores are if the true fall is `loss` at most.

    Scores in [0, 1] with mean p vary at most as coins do, p (1 - p). One success and one failure are added to each
    mean, which keeps the tails honest near 0 and 1 (Agresti and Caffo 2000).
    """
    first, last = ((share * count + 1) / (count + 2) for share in (before, after))
    return (first - last - loss) / math.sqrt((first * (1 - first) + last * (1 - last)) / (count + 2))


def normal_tail(z: float) -> float:
    return math.erfc(z / math.sqrt(2)) / 2


def t_quantile(degrees: float, upper: float) -> float:
    """What Student's t exceeds with probability `upper`: bisection on its distribution function.

    The tail is the integral of the density over t = tan(angle) sqrt(degrees), where it is a power of the cosine.
    """
    angles = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(angles) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = float(np.interp(1 - 2 * upper, mass / mass[-1], angles))
    return math.tan(angle) * math.sqrt(degrees)


def change(
    before: Sequence[float] | np.ndarray, after: Sequence[float] | np.ndarray, risk: float
) -> tuple[float, float, float]:
    """Mean of `after` less that of `before`, with Welch's interval, wrong on either side with `risk`."""
    a, b = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    difference = float(b.mean() - a.mean())
    variances = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    total = variances[0] + variances[1]
    if total <= 0:
        return difference, difference, difference
    degrees = total**2 / (variances[0] ** 2 / (len(a) - 1) + variances[1] ** 2 / (len(b) - 1))
    reach = t_quantile(degrees, risk) * math.sqrt(total)
    return difference, difference - reach, difference + reach


def thirds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last third."""
    count = len(values) // 3
    return values[:count], values[len(values) - count :]


def extreme_scores(mean: float, count: int) -> tuple[float, ...]:
    """`count` scores in [0, 1] with this mean, as far apart as there are: ones, a rest, zeros.

    They stand in for scores of which only the mean was kept. log(1 + L x) is concave, so of all scores with this
    mean these make a `Bet` the poorest: what it says with them, it would have said with the true ones.
    """
    total = min(max(mean, 0.0), 1.0) * count
    ones = int(total + 1e-9)
    rest = (max(total - ones, 0.0),) if ones < count else ()
    return (1.0,) * ones + rest + (0.0,) * (count - ones - len(rest))


def common_count(shares: Sequence[float], at_most: int) -> int:
    """The fewest items of which all these can be shares; 0 if no count up to `at_most` fits."""
    values = np.asarray(shares, dtype=float)
    for count in range(1, at_most + 1):
        if np.all(np.abs(values * count - np.round(values * count)) < 1e-6):
            return count
    return 0
