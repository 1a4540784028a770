"""Demonstrations as a source: which documents make optimizer step i, and how they lie in micro-batches.

Both are pure functions of the seed and the step, so a resumed run reads on where it stopped without any
state, and the documents of a step do not depend on how they are laid out. A step takes documents from the
shuffled stream until its budget is full, of tokens or of documents; the layout then fills micro-batches
of at most `micro_tokens` tokens, best-fit decreasing, and never changes the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rung.batch import Batch, Example, collate
from rung.data.mixture import epoch_order
from rung.data.pack import pack
from rung.errors import UserError


@dataclass
class DemonstrationSource:
    examples: Sequence[Example]
    sizes: Sequence[int]  # examples per file, in order
    weights: Sequence[float] | None  # shares of the files in an epoch
    seed: int = 0
    epochs: float | None = None  # None: endless
    step_tokens: int = 4096
    step_documents: int | None = None  # a budget in documents instead of tokens
    micro_tokens: int = 1024
    packing: bool = True  # False: one document per micro-batch
    rank: int = 0
    world: int = 1
    _starts: list[int] = field(default_factory=lambda: [0], repr=False)  # stream index where step i begins
    _orders: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.lengths = np.array([len(e) for e in self.examples])
        longest = int(self.lengths.max(initial=0))
        if longest > self.micro_tokens:
            raise UserError(
                f"A document of {longest} tokens does not fit micro_tokens={self.micro_tokens}. "
                f"Write --micro-tokens {longest} or a smaller --max-length."
            )
        self.per_epoch = len(self._order(0))
        self.end = None if self.epochs is None else round(self.epochs * self.per_epoch)

    def steps(self) -> int:
        """Optimizer steps until the epochs are used up."""
        step = 0
        while self._start(step) < (self.end or 0):
            step += 1
        return step

    def metrics(self, step: int) -> dict[str, float]:
        return {"epoch": self._start(step + 1) / self.per_epoch}

    def documents(self, step: int) -> list[Example]:
        """The documents of a step, in stream order, for all ranks together."""
        return [self.examples[self._row(i)] for i in range(self._start(step), self._start(step + 1))]

    def step(self, step: int) -> list[Batch]:
        """This rank's micro-batches of a step."""
        chosen = self.documents(step)
        bins = (
            pack([len(e) for e in chosen], self.micro_tokens)
            if self.packing
            else [[i] for i in range(len(chosen))]
        )
        return [collate([chosen[i] for i in sorted(members)]) for members in bins[self.rank :: self.world]]

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {epoch: epoch_order(self.sizes, self.weights, self.seed, epoch), **self._orders}
            while len(self._orders) > 2:  # a step touches at most the end of one epoch and the next
                self._orders.popitem()
        return self._orders[epoch]

    def _row(self, index: int) -> int:
        epoch, place = divmod(index, self.per_epoch)
        return int(self._order(epoch)[place])

    def _start(self, step: int) -> int:
        while len(self._starts) <= step:
            index = begin = self._starts[-1]
            tokens = 0
            while self.end is None or index < self.end:
                length = int(self.lengths[self._row(index)])
                full = (
                    index - begin >= self.step_documents
                    if self.step_documents
                    else tokens + length > self.step_tokens
                )
                if full and index > begin:
                    break
                tokens += length
                index += 1
            self._starts.append(index)
        return self._starts[step]
