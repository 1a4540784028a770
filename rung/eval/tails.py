"""Model collapse: what happens to rare things when a model is fitted to its own samples, and how to see it.

A symbol of probability p is missing from m samples with probability (1 - p)^m, and what is missing once from its own
training data never comes back (2305.17493). With `fresh` of the m = own + fresh rows drawn from the real distribution
in every generation, the expected homozygosity J = E[sum_i p_i^2] (1 is a single symbol) obeys, exactly,

    J' = (m + own (own - 1) J + (fresh (fresh - 1) + 2 own fresh) J_0) / m^2

because E[p] stays p_0 (the mean of a multinomial is its parameter). Without fresh rows the only fixed point is 1:
collapse is certain, after about m generations; with them J stays below 1 for ever. The formula is ours; the effect is
the paper's, and that real data bounds it is 2404.01413's.

Whether a model has begun to lose its tail is asked task by task: under the hypothesis that it writes as before, the
two answers to a task may be swapped. The number of different n-grams, before less now, is compared with what it
comes to under random swaps. Exact for any dependence between the words of an answer; answers are cut to the same
length first, since longer ones hold more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from rung.eval.diversity import grams, split

DRAWS = 999


def missing(probability: float, samples: int) -> float:
    """The chance that a symbol does not occur in so many samples."""
    return (1 - probability) ** samples


def homozygosity(start: float, own: int, fresh: int, generations: int) -> np.ndarray:
    """J of each generation from 0 on, float64 `[generations + 1]`, when refitted to own + fresh samples each time."""
    m, found = own + fresh, [start]
    for _ in range(generations):
        real = (fresh * (fresh - 1) + 2 * own * fresh) * start
        found.append((m + own * (own - 1) * found[-1] + real) / m**2)
    return np.array(found)


def where_it_ends(start: float, own: int, fresh: int) -> float:
    """The fixed point of J: 1 without fresh samples."""
    m = own + fresh
    return (m + (fresh * (fresh - 1) + 2 * own * fresh) * start) / (m**2 - own * (own - 1))


def refitted(probabilities: np.ndarray, own: int, fresh: int, generations: int, seed: int) -> np.ndarray:
    """A discrete distribution re-estimated from its own samples, float64 `[generations + 1, symbols]`."""
    generator = np.random.default_rng(seed)
    found = [np.asarray(probabilities, float)]
    for _ in range(generations):
        counts = generator.multinomial(own, found[-1]) + generator.multinomial(fresh, found[0])
        found.append(counts / (own + fresh))
    return np.array(found)


@dataclass(frozen=True)
class Lost:
    """Different n-grams then and now, over the same tasks, and the chance of such a loss if nothing changed."""

    before: int
    now: int
    p_value: float

    @property
    def share(self) -> float:
        """Of what there was; negative where there is more."""
        return 1 - self.now / self.before if self.before else 0.0


def lost(before: Sequence[str], now: Sequence[str], n: int = 2, draws: int = DRAWS, seed: int = 0) -> Lost:
    """Compare answers to the same tasks, in the same order. One-sided, by random swaps within tasks."""
    if len(before) != len(now) or not before:
        raise ValueError(f"{len(before)} answers then and {len(now)} now: give both for each of some tasks")
    pairs = []
    for old, new in zip(before, now, strict=True):
        words_old, words_new = split(old), split(new)
        most = min(len(words_old), len(words_new))
        pairs.append((grams(words_old[:most], n), grams(words_new[:most], n)))
    generator = np.random.default_rng(seed)
    kinds, tasks, sides = entries(pairs)
    then, later = different(kinds, sides)
    as_large = 0
    for _ in range(draws):
        swap = generator.random(len(pairs)) < 0.5
        one, other = different(kinds, sides ^ swap[tasks])
        as_large += one - other >= then - later
    return Lost(then, later, (1 + as_large) / (1 + draws))


def entries(pairs: Sequence[tuple[Collection, Collection]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each occurrence: which n-gram, int64, of which task, int64, now rather than before, bool; all `[entries]`."""
    numbers: dict[object, int] = {}
    rows = [
        (numbers.setdefault(gram, len(numbers)), task, side)
        for task, pair in enumerate(pairs)
        for side, found in enumerate(pair)
        for gram in sorted(set(found))
    ]
    kinds, tasks, sides = np.array(rows, np.int64).reshape(-1, 3).T
    return kinds, tasks, sides.astype(bool)


def different(kinds: np.ndarray, sides: np.ndarray) -> tuple[int, int]:
    """How many different n-grams stand on each side."""
    return tuple(int((np.bincount(kinds[side]) > 0).sum()) for side in (~sides, sides))  # type: ignore[return-value]
