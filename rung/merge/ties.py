"""TIES: trim each task vector to its largest entries, elect a sign per weight, average those that agree.

    1  trim     keep the density n entries of tau_i with the largest magnitude, of each tensor on its own
    2  elect    gamma = sign(sum_i w_i tau_i), + where the sum is 0
    3  merge    m = sum_{i: sign(w_i tau_i) = gamma} w_i tau_i / sum_{same i} w_i
    4  theta = base + scale m

Source: 2306.01708. There all weights are 1; with weights the mean of step 3 is a weighted one, as in mergekit (its
`normalize`, on by default there too). Entries as large as the smallest one kept stay too: of bf16 models many are equal,
and which of them would go is nobody's choice. The trimmed vector is not scaled up again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rung.merge.blocks import Blocks, must_be_density
from rung.merge.task_arithmetic import task_vectors


def ties(
    blocks: Blocks, *, weights: Sequence[float], density: float = 0.2, scale: float = 1.0
) -> Iterator[Tensor]:
    """Blocks are of the base and then the models; `weights` belong to the models."""
    must_be_density(density)
    yield from agreed(trimmed(task_vectors(blocks), density), weights, scale)


def trimmed(vectors: Blocks, density: float) -> Blocks:
    if density == 1:
        return vectors
    smallest = smallest_kept(vectors, density)

    def read() -> Iterator[list[Tensor]]:
        for base, *taus in vectors():
            yield [base, *(tau * (tau.abs().float() >= cut) for tau, cut in zip(taus, smallest, strict=True))]

    return read


def smallest_kept(vectors: Blocks, density: float) -> list[float]:
    """The magnitude, in float32, of the max(1, floor(density n))-th largest entry of each task vector.

    The bits of positive floats have the order of their values. One pass counts the upper halves and so finds
    the half the entry has; a second counts the lower halves among those. Exact, in the memory of a table.
    """
    size = 0
    uppers: np.ndarray = np.zeros((1, 1 << 15), np.int64)  # becomes a row for each vector
    for _, *taus in vectors():
        size += taus[0].numel()
        uppers = uppers + np.stack([np.bincount(bits(tau) >> 16, minlength=1 << 15) for tau in taus])
    wanted = max(1, int(density * size))
    tops = [place(count, wanted) for count in uppers]
    lowers: list[np.ndarray] = [np.zeros(1 << 16, np.int64) for _ in tops]
    for _, *taus in vectors():
        for count, tau, (top, _) in zip(lowers, taus, tops, strict=True):
            these = bits(tau)
            count += np.bincount(these[these >> 16 == top] & 0xFFFF, minlength=1 << 16)
    lows = [place(count, left)[0] for count, (_, left) in zip(lowers, tops, strict=True)]
    whole = [top << 16 | low for (top, _), low in zip(tops, lows, strict=True)]
    return np.array(whole, np.int32).view(np.float32).astype(float).tolist()


def bits(tau: Tensor) -> np.ndarray:
    return tau.abs().float().numpy().view(np.int32)


def place(counts: np.ndarray, wanted: int) -> tuple[int, int]:
    """The bin of the `wanted`-th largest, and its rank, from the top, within the bin."""
    above = np.cumsum(counts[::-1])
    index = int(np.searchsorted(above, wanted))
    return len(counts) - 1 - index, wanted - int(above[index] - counts[::-1][index])


def agreed(vectors: Blocks, weights: Sequence[float], scale: float) -> Iterator[Tensor]:
    """Steps 2 to 4."""
    for base, *taus in vectors():
        elected = torch.zeros_like(base)
        for tau, weight in zip(taus, weights, strict=True):
            elected.add_(tau, alpha=weight)
        positive = elected >= 0
        total, shares = torch.zeros_like(base), torch.zeros_like(base)
        for tau, weight in zip(taus, weights, strict=True):
            part = tau * weight
            agrees = torch.where(positive, part > 0, part < 0)
            total += part * agrees
            shares += weight * agrees
        yield base.add_(total / shares.masked_fill_(shares == 0, 1), alpha=scale)
