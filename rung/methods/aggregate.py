"""From one loss per token to a sum and the count that divides it: four ways to say what counts alike.

    token         sum_i sum_t l / sum_i L_i          every token alike (DAPO)
    sequence      sum_i (1/L_i) sum_t l / B          every document alike, long ones' tokens less (GRPO)
    sequence_sum  sum_i sum_t l / B                  every document's whole log-prob (REINFORCE, RLOO)
    fixed         sum_i (1/max_length) sum_t l / B   the same up to a constant, on the scale of a token (Dr.GRPO)

Sum and count are added up over micro-batches and ranks before the one division. With weights, L_i is the sum
of a document's weights, and a document whose weights are all 0 does not count. What was left out of the batch because its
loss is 0 does (`Batch.left_out`). A constant factor on the loss is a factor on the learning rate for plain SGD
only: AdamW ignores it, gradient clipping does not.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rung.errors import UserError
from rung.methods.ratios import document_sums

Aggregation = Literal["token", "sequence", "sequence_sum", "fixed"]


def aggregate(
    loss_M: Tensor,
    weight_M: Tensor,
    document_M: Tensor,
    documents: int,
    how: Aggregation,
    max_length: int = 0,
    left_out: tuple[float, int] = (0.0, 0),
) -> tuple[Tensor, float, str]:
    """`(sum, count, name of the count)`."""
    loss_M = loss_M * weight_M
    tokens, sequences = left_out
    if how == "token":
        return loss_M.sum(), float(weight_M.sum()) + tokens, "tokens"
    weight_B = document_sums(weight_M, document_M, documents)
    if how == "sequence":
        loss_M = loss_M / torch.where(weight_B > 0, weight_B, 1.0)[document_M]
    elif how == "fixed":
        if max_length <= 0:
            raise UserError(
                f"The aggregation `fixed` divides each answer by max_length, which is {max_length}. "
                "Give max_length the largest number of tokens an answer may have."
            )
        loss_M = loss_M / max_length
    return loss_M.sum(), float((weight_B > 0).sum()) + sequences, "sequences"
