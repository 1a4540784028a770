"""What a student says of a batch, and how far that is from what a teacher says."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rung.batch import Batch, TokenScores
from rung.kernels.linear_divergence import Live, Measure, TopK, linear_divergence
from rung.kernels.linear_logprob_torch import Head
from rung.models.fallback import Model
from rung.models.policy import trained_sites

Teacher = Callable[[Batch], Live | TopK]  # of the trained tokens of a batch, in the order of TokenScores


def score_against(
    model: Model,
    batch: Batch,
    teacher: Teacher,
    measure: Measure,
    *,
    size: int,
    temperature: float = 1.0,
    head_float32: bool = False,
    perturb: Callable[[Tensor], Tensor] | None = None,
) -> TokenScores:
    """TokenScores with `divergence_M`. Both distributions are over the first `size` tokens."""
    sites = trained_sites(model, batch, perturb)
    found = linear_divergence(
        sites.states_MD,
        head_of(model, size, temperature, head_float32),
        sites.targets_M,
        teacher(batch),
        measure,
    )
    return TokenScores(
        found.logprob_N, sites.document_M, divergence_M=found.divergence_N, auxiliary=sites.auxiliary
    )


def head_of(model: Model, size: int, temperature: float = 1.0, head_float32: bool = False) -> Head:
    """The model's head over its first `size` tokens: rows beyond are padding and stand for no token."""
    bias_V = model.head_bias
    return Head(
        model.head_weight[:size],
        None if bias_V is None else bias_V[:size],
        temperature,
        model.config.logit_softcap,
        head_float32,
    )


def live_teacher(model: Model, size: int, *, temperature: float = 1.0, head_float32: bool = False) -> Teacher:
    """A teacher in memory, on the student's device, asked anew for every batch."""
    head = head_of(model, size, temperature, head_float32)

    @torch.no_grad()
    def teacher(batch: Batch) -> Live:
        model.eval()
        return Live(trained_sites(model, batch).states_MD, head)

    return teacher
