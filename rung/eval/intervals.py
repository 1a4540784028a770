"""An accuracy without its interval is half a number.

What is resampled is the unit that was drawn independently: the problem, with all of its attempts. Attempts at
one problem are alike, and an interval that treats them as independent is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

DRAWS = 2000  # resamples; the ends of a 95 % interval then wobble by about 3 % of its width
LEVEL = 0.95
NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A number with the interval it lies in."""

    value: float
    low: float
    high: float
    level: float = LEVEL

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def wilson(successes: float, trials: float, z: float = 1.96) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927): honest near 0 and 1, where p +- z s is not.

    centre = (p + z^2/2n) / (1 + z^2/n),  half = z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n)
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials is no proportion")
    p, share = successes / trials, z * z / trials
    centre = (p + share / 2) / (1 + share)
    half = z * math.sqrt(p * (1 - p) / trials + share / (4 * trials)) / (1 + share)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def replicates(
    statistic: Callable[[np.ndarray], float | np.ndarray], units: int, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """`statistic` of `draws` resamples of the units with repetition: `[draws, ...]`.

    It is given the indices of the units drawn, so that one scheme serves means, curves, fits and pairs.
    """
    if units < 1:
        raise ValueError("there is nothing to resample")
    generator = np.random.default_rng(seed)
    return np.stack([np.asarray(statistic(generator.integers(0, units, units))) for _ in range(draws)])


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    units: int,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """The BCa interval (Efron 1987): percentiles, corrected for bias and skew.

        z0 = Phi^-1(share of replicates below the value),  a = sum d^3 / (6 (sum d^2)^1.5)
        end(q) = percentile Phi(z0 + (z0 + z_q) / (1 - a (z0 + z_q))),  d = mean of jackknife - jackknife

    One unit, or replicates that are all alike, cannot tell how far off the value is; then low = high = value,
    and whoever knows the range of the values must widen it (`proportion`, `paired.compare`).
    """
    everything = np.arange(units)
    value = float(statistic(everything))
    drawn = np.sort(replicates(statistic, units, draws, seed))
    if units == 1 or drawn[0] == drawn[-1]:
        return Estimate(value, value, value, level)
    # Ties count half, or a coarse statistic would look biased.
    below = (np.sum(drawn < value) + 0.5 * np.sum(drawn == value)) / draws
    bias = NORMAL.inv_cdf(min(max(below, 0.5 / draws), 1 - 0.5 / draws))
    left_out = np.array([statistic(np.delete(everything, i)) for i in range(units)])
    centred = left_out.mean() - left_out
    spread = float(np.sum(centred**2))
    skew = float(np.sum(centred**3)) / (6 * spread**1.5) if spread > 0 else 0.0

    def end(quantile: float) -> float:
        z = bias + NORMAL.inv_cdf(quantile)
        if skew * z >= 1:  # a few units with one far off: the corrected percentile is beyond them all
            return float(drawn[-1] if z > 0 else drawn[0])
        return float(np.quantile(drawn, NORMAL.cdf(bias + z / (1 - skew * z))))

    return Estimate(value, end((1 - level) / 2), end((1 + level) / 2), level)


def percentiles(drawn: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Plain percentile ends of replicates along the first axis. Infinite replicates stay infinite."""
    ordered = np.sort(drawn, axis=0)  # np.quantile would interpolate towards infinity and give nan
    last = len(ordered) - 1
    return ordered[math.floor((1 - level) / 2 * last)], ordered[math.ceil((1 + level) / 2 * last)]


def proportion(successes: np.ndarray, trials: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Successes over trials, one entry per problem, resampled by problem.

    With one trial each it is Wilson's interval. If no problem differs from the others (all right, all wrong)
    resampling sees no spread, and Wilson's over problems is what remains to be said.
    """
    successes, trials = np.asarray(successes, float), np.asarray(trials, float)
    successes, trials = successes[trials > 0], trials[trials > 0]
    if not len(trials):
        raise ValueError("no attempt was scored, so there is no proportion")
    value = float(successes.sum() / trials.sum())
    if trials.max() == 1 or value in (0.0, 1.0) or len(trials) == 1:
        return Estimate(value, *wilson(value * len(trials), len(trials)))
    found = bootstrap(lambda units: successes[units].sum() / trials[units].sum(), len(trials), draws, seed)
    if found.low == found.high:
        return Estimate(value, *wilson(value * len(trials), len(trials)))
    return found
