"""Negative log-likelihood of the trained tokens: supervised fine-tuning, and the part other methods reuse."""

from __future__ import annotations

from typing import Literal

import torch

from rung.batch import Batch, Loss, TokenScores


def nll(
    scores: TokenScores,
    batch: Batch,
    *,
    normalize: Literal["token", "sequence"] = "token",
    balance: float = 0.0,
    router_z: float = 0.0,
) -> Loss:
    """Raise the probability of what the demonstration says next.

    token     sum_t -log p(t) / number of trained tokens of the whole step
    sequence  sum_i (1/L_i) sum_{t in i} -log p(t) / number of documents with a trained token

    Token counts every token alike, so long answers weigh more; sequence counts every document alike.
    `balance` and `router_z` add the router losses of a mixture of experts (`models.parts.router_losses`),
    each a mean per token scaled by this batch's count, so that the one division leaves a mean.

    scores.logprob_M: float32 log-probability of each trained token. No deviation from the usual definition.
    """
    nll_M = -scores.logprob_M
    documents = torch.bincount(scores.document_M, minlength=len(batch))
    if normalize == "token":
        total, count, name = nll_M.sum(), float(len(nll_M)), "tokens"
    else:
        total = (nll_M / documents[scores.document_M]).sum()
        count, name = float((documents > 0).sum()), "sequences"
    metrics = {}
    for key, coefficient in (("balance", balance), ("z", router_z)):
        if key in scores.auxiliary:
            value = scores.auxiliary[key]
            metrics[f"router_{key}"] = (float(value.detach()) * count, count)
            if coefficient:
                total = total + coefficient * value * count
    return Loss(total, count, name, metrics)
