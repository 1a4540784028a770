"""A power law with an offset, y = floor + scale x^-exponent, and whether the data have earned it.

Any smooth curve over a short range is a power law. So a fit comes with three things that can refuse it: the
error at points held out at the far end, the range of exponents that fit about as well, and the range of
predictions those exponents make where one asks. For a given exponent the rest is linear least squares on
relative residuals (noise in proportion to y), so the whole fit is one search in one dimension: no start
values, no local optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

import numpy as np

from rung.errors import UserError

EXPONENTS = np.exp(np.linspace(np.log(0.01), np.log(10), 1200))
DECADE = 1.0
MANY_TIMES = 2.0  # an exponent known only within this factor is not known


@dataclass(frozen=True)
class PowerLaw:
    floor: float
    scale: float
    exponent: float
    exponent_low: float
    exponent_high: float
    decades: float  # measured range of x
    residual: float  # root mean square relative residual
    waviness: float  # correlation of neighbouring residuals; noise has none, a wrong form has much
    held_out_error: float  # relative, root mean square, at the farthest points, predicted from the others
    held_out_decades: float  # how far beyond the others those lie
    doubts: tuple[str, ...]  # why the fit must not be extrapolated; empty if nothing speaks against it
    family: tuple[tuple[float, float, float], ...]  # (floor, scale, exponent) of all that fit about as well

    def at(self, x: float) -> tuple[float, float, float]:
        """The prediction, and its lowest and highest among the exponents that fit about as well."""
        found = [floor + scale * x**-exponent for floor, scale, exponent in self.family]
        return self.floor + self.scale * x**-self.exponent, min(found), max(found)


def fit_power_law(
    x: Sequence[float], y: Sequence[float], with_floor: bool = True, held_out: float = 0.25
) -> PowerLaw:
    """Fit all points; judge the fit by predicting the farthest quarter of them from the rest."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    order = np.argsort(xs, kind="stable")
    xs, ys = xs[order], ys[order]
    parameters = 3 if with_floor else 2
    if len(xs) != len(ys) or len(np.unique(xs)) < parameters + 2 or not (np.all(xs > 0) and np.all(ys > 0)):
        raise UserError(
            f"a power law {'with a floor ' if with_floor else ''}needs at least {parameters + 2} different x, all x "
            f"and y positive, and there are {len(np.unique(xs))}; measure more points"
        )
    floor, scale, exponent, residuals = search(xs, ys, with_floor)
    family = plausible(xs, ys, with_floor)
    far = min(max(1, round(held_out * len(xs))), len(xs) - parameters - 1)
    near = search(xs[:-far], ys[:-far], with_floor)
    missed = (near[0] + near[1] * xs[-far:] ** -near[2]) / ys[-far:] - 1
    found = PowerLaw(
        floor,
        scale,
        exponent,
        family[0][2],
        family[-1][2],
        log10(xs[-1] / xs[0]),
        float(np.sqrt(np.mean(residuals**2))),
        waviness(residuals),
        float(np.sqrt(np.mean(missed**2))),
        log10(xs[-1] / xs[-far - 1]),
        (),
        tuple(family),
    )
    return PowerLaw(**{**vars(found), "doubts": doubts(found, freedom=len(xs) - parameters)})


def doubts(found: PowerLaw, freedom: int) -> tuple[str, ...]:
    """What speaks against the fit, in words. The first is about the range, which no fit can make up for."""
    said = []
    if found.decades < DECADE:
        said.append(
            f"range too narrow: x spans a factor of {10**found.decades:.3g}, and less than 10 tells no power law "
            "from another smooth curve"
        )
    if found.exponent_high > MANY_TIMES * found.exponent_low:
        said.append(
            f"exponent not determined: anything from {found.exponent_low:.3g} to {found.exponent_high:.3g} fits "
            f"about as well as {found.exponent:.3g}"
        )
    if found.waviness > 0.5 and found.residual > 0.002:
        said.append(
            f"wrong form: neighbouring residuals go together (correlation {found.waviness:.2f}), so the points "
            "wind around the curve"
        )
    noise = found.residual * np.sqrt((freedom + 3) / freedom)
    if found.held_out_error > max(3 * noise, 0.02):
        said.append(
            f"misses what it has not seen: {found.held_out_error:.1%} off at the farthest points, against "
            f"{found.residual:.1%} within the fit"
        )
    return tuple(said)


def waviness(residuals: np.ndarray) -> float:
    centred = residuals - residuals.mean()
    return float(centred[1:] @ centred[:-1] / max(float(centred @ centred), 1e-300))


def beyond(found: PowerLaw, largest: float, x: float) -> str:
    """A warning for a prediction at x farther (in log) beyond the data than the data are wide; else empty."""
    ahead = log10(x / largest)
    if ahead <= found.decades:
        return ""
    return f"x = {x:g} lies {ahead:.2g} decades beyond data that span {found.decades:.2g}"


def linear(
    x: np.ndarray, y: np.ndarray, exponents: np.ndarray, with_floor: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(floor_E, scale_E, cost_E)`: the best floor, not below 0, and scale for each exponent."""
    flat = 1 / y
    power_En = x ** -exponents[:, None] / y
    scale_E = power_En.sum(1) / (power_En**2).sum(1)
    floor_E = np.zeros(len(exponents))
    if with_floor:
        # The part of each power that a floor cannot make: stable where the two are nearly alike.
        along_E = power_En @ flat / (flat @ flat)
        own_En = power_En - along_E[:, None] * flat
        with_E = own_En.sum(1) / (own_En**2).sum(1)
        level_E = flat.sum() / (flat @ flat) - with_E * along_E
        floor_E, scale_E = np.where(level_E > 0, (level_E, with_E), (floor_E, scale_E))
    missed_En = floor_E[:, None] * flat + scale_E[:, None] * power_En - 1
    return floor_E, scale_E, (missed_En**2).sum(1)


def student(freedom: int, z: float = 1.959964) -> float:
    """The 97.5 % quantile of Student's t by its Cornish-Fisher series: 3 % short for 2 degrees, 1 % for 3."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def search(x: np.ndarray, y: np.ndarray, with_floor: bool) -> tuple[float, float, float, np.ndarray]:
    """The exponent with the smallest sum of squares: a grid, then finer ones around its best."""
    middle = float(np.exp(np.log(x).mean()))  # powers of x / middle neither overflow nor vanish
    exponents = EXPONENTS
    for _ in range(6):
        floors, scales, costs = linear(x / middle, y, exponents, with_floor)
        best = int(np.argmin(costs))
        floor, scale, exponent = (float(part[best]) for part in (floors, scales, exponents))
        exponents = np.linspace(exponents[max(best - 1, 0)], exponents[min(best + 1, len(exponents) - 1)], 41)
    scale *= middle**exponent
    return floor, scale, exponent, (floor + scale * x**-exponent) / y - 1


def plausible(x: np.ndarray, y: np.ndarray, with_floor: bool) -> list[tuple[float, float, float]]:
    """All (floor, scale, exponent) within the 95 % profile likelihood, by rising exponent.

    With unknown noise the sum of squares may grow by the factor 1 + t^2 / freedom, t being Student's quantile.
    """
    floor, scale, exponent, residuals = search(x, y, with_floor)
    freedom = len(x) - (3 if with_floor else 2)
    least = float(np.sum(residuals**2)) + 1e-24 * len(x)
    middle = float(np.exp(np.log(x).mean()))
    floors, scales, costs = linear(x / middle, y, EXPONENTS, with_floor)
    kept = np.flatnonzero(costs <= least * (1 + student(freedom) ** 2 / freedom))
    rows = [(float(floors[i]), float(scales[i] * middle ** EXPONENTS[i]), float(EXPONENTS[i])) for i in kept]
    return sorted([*rows, (floor, scale, exponent)], key=lambda row: row[2])
