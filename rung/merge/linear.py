"""Weighted means of weights: interpolation with the start, soups, averages over checkpoints.

    theta = sum_i w_i theta_i,     sum_i w_i = 1

Which models stand in the mean makes three operations that are easily mixed up:

    WiSE-FT      the start and what it was tuned into: (1 - alpha) start + alpha tuned (2109.01903)
    soup         several tunings of one start, with other seeds or settings (2203.05482)
    averaging    checkpoints along one run, all alike, or with exponentially falling weights (EMA)

Deviations: none. The mean is formed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import fsum

from torch import Tensor

from rung.errors import UserError
from rung.merge.blocks import Blocks, weighted


def linear(blocks: Blocks, *, weights: Sequence[float]) -> Iterator[Tensor]:
    """The weighted mean; the weights add up to 1 and may be negative, which extrapolates."""
    shares = shares_of(weights)
    for models in blocks():
        yield weighted(models, shares)


def shares_of(weights: Sequence[float]) -> list[float]:
    """The weights as they were meant: a sum like 0.999999 is a rounding of 1, any other is refused."""
    total = fsum(weights)
    if abs(total - 1) <= 1e-3:
        return [weight / total for weight in weights]
    scaled = " ".join(f"{weight / total:.4g}" for weight in weights) if total else ""
    raise UserError(
        f"the weights {' '.join(f'{w:g}' for w in weights)} add up to {total:g}, and a mean needs weights that add up "
        "to 1, or every weight of the model would be scaled. "
        + (f"In these proportions: --weights {scaled}" if scaled else "Write for example --weights 0.5 0.5")
    )


def wise_ft_weights(alpha: float) -> list[float]:
    """Of the start and of the tuned model: 0 is the start, 1 the tuned model."""
    must_be_share(alpha)
    return [1 - alpha, alpha]


def must_be_share(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise UserError(
            f"alpha is {alpha:g}, and it is the place between two models: 0 is the first, 1 the second. Write a "
            "number between them; to go beyond, use linear with --weights such as -0.2 1.2"
        )


def ema_weights(count: int, decay: float) -> list[float]:
    """Of checkpoints, oldest first: what average <- decay average + (1 - decay) checkpoint leaves of each."""
    if not 0 <= decay < 1:
        raise UserError(
            f"a decay of {decay:g}: it is how much of the average stays at each checkpoint, from 0 to below 1. "
            "Write for example 0.8"
        )
    newer = [(1 - decay) * decay ** (count - 1 - i) for i in range(1, count)]
    return [decay ** (count - 1), *newer]
