"""An accuracy without its interval is half a number."""

from __future__ import annotations

import math


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927): honest near 0 and 1, where p +- z s is not.

    centre = (p + z^2/2n) / (1 + z^2/n),  half = z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n)
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials is no proportion")
    p, share = successes / trials, z * z / trials
    centre = (p + share / 2) / (1 + share)
    half = z * math.sqrt(p * (1 - p) / trials + share / (4 * trials)) / (1 + share)
    return max(centre - half, 0.0), min(centre + half, 1.0)
