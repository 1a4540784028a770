"""Distillation: the divergence from a teacher's next-token distributions, on whatever text the batch holds."""

from __future__ import annotations

from typing import Literal

import torch

from rung.batch import Batch, Loss, TokenScores
from rung.errors import UserError
from rung.methods.aggregate import aggregate


def distill(
    scores: TokenScores,
    batch: Batch,
    *,
    data_weight: float = 0.0,
    normalize: Literal["token", "sequence"] = "token",
) -> Loss:
    """Say of each next token what the teacher says of it.

    loss_t = (1 - w) D(teacher_t, student_t) - w log p(t), mean over tokens or over sequences

    D is what the scorer measured: forward or reverse KL (Hinton et al., 1503.02531; MiniLLM, 2306.08543, has the
    reverse one on the student's own samples) or the generalised Jensen-Shannon divergence (GKD, 2306.13649). On the
    data's text this is GKD with its student data fraction at 0. Changed: no factor of temperature squared, and the
    gradient never goes through the sampling of the text.

    data_weight: Share of the ordinary NLL of the text in the loss; 0 listens to the teacher only.
    normalize: What counts alike: `token`, every trained token of the step; `sequence`, every document.
    """
    if not 0 <= data_weight < 1:
        raise UserError(
            f"data_weight is {data_weight}; write a share from 0 to below 1. With 1 there is no teacher: that is "
            "`rung sft`."
        )
    if scores.divergence_M is None:
        raise ValueError("these scores carry no divergence; the scorer must be given a teacher")
    loss_M = (1 - data_weight) * scores.divergence_M - data_weight * scores.logprob_M
    weight_M = torch.ones_like(loss_M)
    total, count, name = aggregate(loss_M, weight_M, scores.document_M, len(batch), normalize)
    tokens = float(len(loss_M))
    said = {"teacher_divergence": scores.divergence_M, "text_nll": -scores.logprob_M}
    metrics = (
        {key: (float(value_M.detach().sum()), tokens) for key, value_M in said.items()} if tokens else {}
    )
    return Loss(total, count, name, metrics)
