"""DARE: most entries of a task vector may be dropped at random, if the rest is scaled up.

    keep each entry of tau_i with probability density, at random;  kept entries / density,  others 0

so that the expectation of every weight stays. Then the vectors are added (DARE) or go through the election of TIES
(DARE-TIES). Source: 2311.03099, where p = 1 - density is dropped; 0.9 is typical for it.

Deviation from mergekit, not from the paper: there the kept entries are scaled so that the L1 norm of the tensor stays,
which is 1 / density in expectation only. Its `rescale: false, lambda: 1/density` gives this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rung.merge.blocks import Blocks, must_be_density
from rung.merge.task_arithmetic import added, task_vectors
from rung.merge.ties import agreed


def dare(
    blocks: Blocks, *, weights: Sequence[float], density: float = 0.1, scale: float = 1.0, seed: int = 0
) -> Iterator[Tensor]:
    """Blocks are of the base and then the models. `seed` is of this tensor: another tensor needs another."""
    must_be_density(density)
    yield from added(dropped(task_vectors(blocks), density, seed), weights, scale)


def dare_ties(
    blocks: Blocks, *, weights: Sequence[float], density: float = 0.1, scale: float = 1.0, seed: int = 0
) -> Iterator[Tensor]:
    """Drop at random in place of trimming; the sign is elected among what is left."""
    must_be_density(density)
    yield from agreed(dropped(task_vectors(blocks), density, seed), weights, scale)


def dropped(vectors: Blocks, density: float, seed: int) -> Blocks:
    def read() -> Iterator[list[Tensor]]:
        dice: list[np.random.Generator] = []
        for base, *taus in vectors():
            dice = dice or [np.random.Generator(np.random.SFC64(seed + i)) for i in range(len(taus))]
            for tau, die in zip(taus, dice, strict=True):
                tau.mul_(kept(tau, density, die)).div_(density)
            yield [base, *taus]

    return read


def kept(tau: Tensor, density: float, die: np.random.Generator) -> Tensor:
    """1 for entries that stay, else 0. One draw each, in order: how a tensor is cut into blocks changes nothing."""
    return torch.from_numpy(die.random(tau.numel())).lt_(density)
