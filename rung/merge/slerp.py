"""Spherical interpolation of two models, tensor by tensor: along the arc between them, not the chord.

    Omega = angle between a and b as vectors
    theta = sin((1 - t) Omega) / sin(Omega) a  +  sin(t Omega) / sin(Omega) b

Source: Shoemake 1985, for quaternions; used on weights by the merging community, with a and b as they are (not
scaled to length 1). Where |cos Omega| > 0.9995 the formula loses its digits, and the chord is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import acos, sin, sqrt

from torch import Tensor

from rung.merge.blocks import Blocks, weighted
from rung.merge.linear import must_be_share

PARALLEL = 0.9995


def slerp(blocks: Blocks, *, alpha: float) -> Iterator[Tensor]:
    """From the first model (alpha 0) to the second (alpha 1); both ends are exact."""
    must_be_share(alpha)
    weights = coefficients(cosine(blocks), alpha)
    for pair in blocks():
        yield weighted(pair, weights)


def cosine(blocks: Blocks) -> float:
    """Of the angle between two tensors; 1 where one of them is zero, which has no direction."""
    aa = bb = ab = 0.0
    for a, b in blocks():
        aa, bb, ab = aa + float(a @ a), bb + float(b @ b), ab + float(a @ b)
    return ab / sqrt(aa) / sqrt(bb) if aa and bb else 1.0


def coefficients(cosine: float, alpha: float) -> tuple[float, float]:
    if abs(cosine) > PARALLEL:
        return 1 - alpha, alpha
    angle = acos(cosine)
    return sin((1 - alpha) * angle) / sin(angle), sin(alpha * angle) / sin(angle)
