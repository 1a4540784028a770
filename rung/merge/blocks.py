"""What a merge method reads: one weight tensor of every model, in pieces, as often as it likes.

A method never holds a whole tensor. It gets a function that starts reading anew at each call and yields blocks: a
list with one flat float64 piece per model, all of the same length, in order. They are the method's own, to write into.
It yields the merged pieces. What a method must know of the whole tensor first (an angle, a threshold) it finds in a
pass of its own.

float64 so that the result is rounded once, to the type it is stored in: a weighted mean of equal weights
is then that weight exactly, and the order of the models does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from rung.errors import UserError

Blocks = Callable[[], Iterator[list[Tensor]]]


def blocks_of(*tensors: Tensor, size: int = 1 << 18) -> Blocks:
    """Blocks of tensors in memory."""

    def read() -> Iterator[list[Tensor]]:
        flat = [tensor.reshape(-1) for tensor in tensors]
        for start in range(0, max(flat[0].numel(), 1), size):
            yield [one[start : start + size].to(torch.float64, copy=True) for one in flat]

    return read


def weighted(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i weights_i parts_i. A part of weight 0 is not touched, so that ends of a range are exact."""
    used = [(part, weight) for part, weight in zip(parts, weights, strict=True) if weight]
    if not used:
        return torch.zeros_like(parts[0])
    total = used[0][0] * used[0][1]
    for part, weight in used[1:]:
        total.add_(part, alpha=weight)
    return total


def must_be_density(density: float) -> None:
    if not 0 < density <= 1:
        raise UserError(
            f"a density of {density:g}: it is the share of a task vector's entries that is kept, above 0 and at "
            "most 1. Write for example 0.2"
        )
