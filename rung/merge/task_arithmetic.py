"""Task arithmetic: what training added to the base is a vector, and vectors add.

    tau_i = theta_i - base,      theta = base + scale sum_i w_i tau_i

Source: 2212.04089. A negative weight takes a skill away. Deviations: none; weights are 1 unless given, and they are not
divided by their sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from rung.merge.blocks import Blocks, weighted


def task_arithmetic(blocks: Blocks, *, weights: Sequence[float], scale: float = 1.0) -> Iterator[Tensor]:
    """Blocks are of the base and then the models; `weights` belong to the models."""
    yield from added(task_vectors(blocks), weights, scale)


def task_vectors(blocks: Blocks) -> Blocks:
    """The base as it is, and each model less the base."""

    def read() -> Iterator[list[Tensor]]:
        for base, *models in blocks():
            yield [base, *(model.sub_(base) for model in models)]

    return read


def added(vectors: Blocks, weights: Sequence[float], scale: float) -> Iterator[Tensor]:
    for base, *taus in vectors():
        yield base.add_(weighted(taus, weights), alpha=scale)
