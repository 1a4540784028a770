"""Pairs as a source: which pairs make optimizer step i, and how they lie in micro-batches.

Pure functions of the seed and the step, as in `demonstrations`: a resumed run reads on without any state.
A step takes `step_pairs` pairs from the shuffled stream; the layout fills micro-batches of at most
`micro_tokens` tokens, the prompt of a pair laid down once, and never changes the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from rung.batch import Batch, Pair, collate_pairs, pair_tokens
from rung.data.mixture import epoch_order
from rung.data.pack import pack
from rung.errors import UserError


@dataclass
class PreferenceSource:
    pairs: Sequence[Pair]
    sizes: Sequence[int]  # pairs per file, in order
    weights: Sequence[float] | None  # shares of the files in an epoch
    labels: Sequence[bool] = ()  # of judged answers: one per pair, see `sources.feedback`
    seed: int = 0
    epochs: float | None = None  # None: endless
    step_pairs: int = 32
    micro_tokens: int = 2048
    rank: int = 0
    world: int = 1
    _orders: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.lengths = np.array([pair_tokens(pair) for pair in self.pairs])
        longest = int(self.lengths.max(initial=0))
        if longest > self.micro_tokens:
            raise UserError(
                f"A pair of {longest} tokens does not fit micro_tokens={self.micro_tokens}. "
                f"Write --micro-tokens {longest} or a smaller --max-length."
            )
        if self.step_pairs < 1:
            raise UserError(f"--step-pairs is {self.step_pairs}, and a step needs at least one. Write 32.")
        self.per_epoch = len(self._order(0))
        self.end = None if self.epochs is None else round(self.epochs * self.per_epoch)

    def steps(self) -> int:
        """Optimizer steps until the epochs are used up."""
        return math.ceil((self.end or 0) / self.step_pairs)

    def metrics(self, step: int) -> dict[str, float]:
        return {"epoch": self._until(step) / self.per_epoch}

    def step(self, step: int) -> list[Batch]:
        """This rank's micro-batches of a step."""
        return [self.batch(rows) for rows in self.layout(step)[self.rank :: self.world]]

    def batch(self, rows: Sequence[int]) -> Batch:
        labels = [self.labels[row] for row in rows] if self.labels else ()
        return collate_pairs([self.pairs[row] for row in rows], labels)

    def layout(self, step: int) -> list[list[int]]:
        """The rows of each micro-batch of a step, over all ranks."""
        rows = [self._row(i) for i in range(step * self.step_pairs, self._until(step))]
        bins = pack([int(self.lengths[row]) for row in rows], self.micro_tokens)
        return [[rows[i] for i in sorted(members)] for members in bins]

    def first_visits(self, steps: int) -> Iterator[list[int]]:
        """The micro-batches of the first `steps` steps that hold a row no earlier one held."""
        seen: set[int] = set()
        for step in range(steps):
            for rows in self.layout(step):
                if not seen.issuperset(rows):
                    seen.update(rows)
                    yield rows
            if len(seen) == len(self.pairs):
                return

    def _until(self, step: int) -> int:
        until = (step + 1) * self.step_pairs
        return until if self.end is None else min(until, self.end)

    def _row(self, index: int) -> int:
        epoch, place = divmod(index, self.per_epoch)
        return int(self._order(epoch)[place])

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {epoch: epoch_order(self.sizes, self.weights, self.seed, epoch), **self._orders}
            while len(self._orders) > 2:  # a step touches at most the end of one epoch and the next
                self._orders.popitem()
        return self._orders[epoch]
