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
from math import sqrt

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from rung.merge.blocks import Blocks, must_be_density
from rung.merge.task_arithmetic import task_vectors

SAMPLE, TABLE = 1 << 17, 1 << 18  # entries of each task vector's sample, and of its table of counts
END = 1 << 31  # above the bits of every magnitude


def ties(
    blocks: Blocks, *, weights: Sequence[float], density: float = 0.2, scale: float = 1.0
) -> Iterator[Tensor]:
    """Blocks are of the base and then the models; `weights` belong to the models."""
    must_be_density(density)
    yield from agreed(trimmed(task_vectors(blocks), density), weights, scale)


def agreed(vectors: Blocks, weights: Sequence[float], scale: float) -> Iterator[Tensor]:
    """Steps 2 to 4. Comparisons in place answer in numbers, 0 and 1, which are quicker to reckon with than booleans."""
    plus = torch.ones((), dtype=torch.float64)
    for base, *taus in vectors():
        elected = torch.zeros_like(base)
        for tau, weight in zip(taus, weights, strict=True):
            elected.add_(tau, alpha=weight)
        sign = torch.copysign(plus, elected)
        total, shares = torch.zeros_like(base), torch.zeros_like(base)
        for tau, weight in zip(taus, weights, strict=True):
            part = tau * weight
            agrees = (part * sign).gt_(0)
            total.addcmul_(part, agrees)
            shares.add_(agrees, alpha=weight)
        nobody = shares.clone().eq_(0)
        yield base.add_(total.div_(shares.add_(nobody)), alpha=scale)


def trimmed(vectors: Blocks, density: float) -> Blocks:
    if density == 1:
        return vectors
    dropped = [largest_below(cut) for cut in smallest_kept(vectors, density)]

    def read() -> Iterator[list[Tensor]]:
        for base, *taus in vectors():
            yield [base, *(hardshrink(tau, most) for tau, most in zip(taus, dropped, strict=True))]

    return read


# ---- the smallest entry that is kept ----


def smallest_kept(vectors: Blocks, density: float) -> list[float]:
    """The magnitude, in float32, of the max(1, floor(density n))-th largest entry of each task vector.

    The bits of positive floats have the order of their values, so a whole number is sought. A sample says in which
    range it should lie. Then all entries are looked at: how many are above the range, how many in each part of it.
    That is exact whatever the sample says, takes two passes as a rule, and the memory of a table.
    """
    size, samples = sampled(vectors)
    wanted = max(1, int(density * size))
    ranges = narrowed(vectors, [likely(sample, size, wanted) for sample in samples], wanted)
    while any(len(one) > 1 for one in ranges):
        ranges = narrowed(vectors, ranges, wanted)
    return np.array([one.start for one in ranges], np.uint32).view(np.float32).astype(float).tolist()


def bits(tau: Tensor) -> np.ndarray:
    return tau.float().abs().numpy().view(np.uint32)


def sampled(vectors: Blocks) -> tuple[int, np.ndarray]:
    """How many entries a task vector has, and a row for each with the bits of every `step`-th: of all, if they are few."""
    size, filled, step = 0, 0, 1
    samples = np.empty((0, SAMPLE), np.uint32)
    for _, *taus in vectors():
        if not len(samples):  # in one piece from the start: small ones would leave holes between blocks
            samples = np.empty((len(taus), SAMPLE), np.uint32)
        stop = size + taus[0].numel()
        while stop > SAMPLE * step:
            step *= 3  # in step with few widths, which are mostly powers of 2
            kept = samples[:, :filled:3].copy()
            filled = kept.shape[1]
            samples[:, :filled] = kept
        old, filled = filled, -(-stop // step)
        for sample, tau in zip(samples, taus, strict=True):
            sample[old:filled] = bits(tau[-size % step :: step])
        size = stop
    return size, samples[:, :filled]


def likely(sample: np.ndarray, size: int, wanted: int) -> range:
    """Where the `wanted`-th largest of `size` lies: within three standard deviations of its rank in the sample."""
    count, share = len(sample), wanted / size
    spread = 3 * sqrt(count * share * (1 - share)) + 1 if count < size else 0
    places = [count - min(max(round(count * share + s), 1), count) for s in (spread, -spread)]
    low, high = np.partition(sample, places)[places].tolist()
    return range(low, high + 1)


def narrowed(vectors: Blocks, ranges: Sequence[range], wanted: int) -> list[range]:
    """For each task vector a shorter range in which its entry is; the ranges given are guesses, or such ranges."""
    parts = [range(one.start, one.stop, -(-len(one) // TABLE)) for one in ranges]
    above, inside = [0] * len(parts), [np.zeros(len(part), np.int64) for part in parts]
    for _, *taus in vectors():
        for i, (tau, part) in enumerate(zip(taus, parts, strict=True)):
            these, start = bits(tau), np.uint32(part.start)
            above[i] += int(np.count_nonzero(these >= part.stop))
            # below the start the difference wraps around
            found = these[these - start < part.stop - part.start]
            np.add.at(inside[i], (found - start) // np.uint32(part.step), 1)
    return [
        part_of(part, one, counts, wanted) for part, one, counts in zip(parts, above, inside, strict=True)
    ]


def part_of(parts: range, above: int, inside: np.ndarray, wanted: int) -> range:
    """The part with the `wanted`-th largest entry, or all numbers on the side where it is."""
    if above >= wanted:
        return range(parts.stop, END)
    down = int(np.searchsorted(np.cumsum(inside[::-1]), wanted - above))
    if down == len(parts):
        return range(0, parts.start)
    start = parts[-1 - down]
    return range(start, min(start + parts.step, parts.stop))


def largest_below(cut: float) -> float:
    """The largest float64 that float32 rounds to less than `cut`: what is larger is kept."""
    kept = np.float32(cut)
    middle = (float(kept) + float(np.nextafter(kept, np.float32(0)))) / 2
    even = kept.view(np.int32) % 2 == 0  # the middle itself is rounded to the neighbour with even bits
    return float(np.nextafter(middle, 0)) if even else middle
