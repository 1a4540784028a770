"""Hold the weights near where they began: L2 to the start, elastic weight consolidation, or both.

    loss = the method's + 1/2 sum_i s_i (w_i - start_i)^2,      s_i = l2 + ewc F_i

L2 holds every weight alike. EWC (1612.00796) holds each as firmly as what was learned before depends on it: F is the
diagonal of the Fisher information on old data, per token (`models.fisher`). To second order 1/2 sum F (w - start)^2
is the KL divergence of start and policy per old token, so that ewc = 1 trades a nat of old for a nat of new.

The loop divides sums by the count of the whole step. Each micro-batch therefore adds the penalty times its own
count: over micro-batches and ranks this adds up to penalty * count, divided once by count, and neither
accumulation nor packing nor ranks change the gradient.

Deviation from the paper: none in the formula; lambda is `ewc`. Distances are those of the float32 masters, since bf16
weights do not show small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rung.batch import Batch, Loss, TokenScores

Method = Callable[[TokenScores, Batch], Loss]


@dataclass(frozen=True)
class Anchor:
    compute: Mapping[str, Tensor]  # the model's weights: gradients are collected there
    masters: Mapping[str, Tensor]  # the same in float32
    start: Mapping[str, Tensor]  # float32, where they began
    l2: float = 0.0
    ewc: float = 0.0
    fisher: Mapping[str, Tensor] | None = None  # float32, with ewc

    def penalty(self) -> Tensor:
        """A float32 scalar, differentiable in the compute weights."""
        parts = [
            Spring.apply(
                weight,
                self.masters[name],
                self.start[name],
                self.fisher and self.fisher[name],
                self.l2,
                self.ewc,
            )
            for name, weight in self.compute.items()
        ]
        return torch.stack(parts).sum()


class Spring(torch.autograd.Function):
    """1/2 sum s (w - start)^2 of one weight. Nothing is kept for backward; the gradient goes to the compute weight."""

    @staticmethod
    def forward(
        ctx: Any, compute: Tensor, master: Tensor, start: Tensor, fisher: Tensor | None, l2: float, ewc: float
    ) -> Tensor:
        ctx.parts = (master.detach(), start, fisher, l2, ewc, compute.dtype)
        gap = master.detach() - start
        energy = l2 * gap.square().sum()
        if fisher is not None:
            energy = energy + ewc * gap.square_().mul_(fisher).sum()
        return energy / 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        master, start, fisher, l2, ewc, dtype = ctx.parts
        gap = master - start
        force = gap * l2 if fisher is None else gap * (fisher * ewc).add_(l2)
        return (force * gradients[0]).to(dtype), None, None, None, None, None


def anchored(method: Method, anchor: Anchor) -> Method:
    def loss(scores: TokenScores, batch: Batch) -> Loss:
        plain = method(scores, batch)
        penalty = anchor.penalty()
        told = {"anchor": (float(penalty.detach()) * plain.count, plain.count)}
        return replace(plain, sum=plain.sum + penalty * plain.count, metrics={**plain.metrics, **told})

    return loss
