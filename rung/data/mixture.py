"""The order of rows in an epoch: a pure function, so that a resumed run sees exactly what is left.

Examples of all sources stand one after the other; an order is a list of indices into them. Without weights an
epoch is a permutation of everything. With weights it is as long, but a source's share of it is its weight:
source i contributes round(weight_i x length) rows, drawn from its own endless row of permutations, so a small
source repeats evenly and a large one continues in the next epoch where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rung.errors import UserError


def epoch_order(sizes: Sequence[int], weights: Sequence[float] | None, seed: int, epoch: int) -> np.ndarray:
    """Indices into the concatenated sources, int64, of length sum(sizes)."""
    total = sum(sizes)
    # The first number of a key tells the two uses apart: [a, b] and [a, b, 0] would be one stream.
    generator = np.random.default_rng([1, seed, epoch])
    if weights is None:
        return generator.permutation(total)
    if len(weights) != len(sizes):
        raise ValueError(f"{len(weights)} weights for {len(sizes)} sources")
    for number, size in enumerate(sizes, 1):
        if size == 0:
            raise UserError(f"data source {number} of the mixture has a weight but no usable row; remove it.")
    counts = shares(weights, total)
    starts = np.cumsum([0, *sizes[:-1]])
    parts = [
        starts[source] + cycle(sizes[source], epoch * counts[source], counts[source], [2, seed, source])
        for source in range(len(sizes))
    ]
    order = np.concatenate(parts)
    generator.shuffle(order)
    return order


def shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to the weights that add up to total (largest remainder)."""
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    missing = total - int(counts.sum())
    for source in np.argsort(counts - exact, kind="stable")[:missing]:
        counts[source] += 1
    return counts.tolist()


def cycle(size: int, start: int, count: int, key: list[int]) -> np.ndarray:
    """Entries start..start+count of permutation 0, permutation 1, ... of `size` rows, laid end to end."""
    first, last = start // size, (start + count - 1) // size
    rounds = [np.random.default_rng([*key, number]).permutation(size) for number in range(first, last + 1)]
    if not rounds:
        return np.empty(0, dtype=np.int64)
    return np.concatenate(rounds)[start - first * size :][:count]
