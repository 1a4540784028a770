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

    No deviation from the usual definition. The router losses of a mixture of experts
    (`models.parts.router_losses`) are means over a micro-batch; each is scaled by its count here, so that the
    one division leaves a mean. They judge how the tokens of a micro-batch spread over the experts together,
    so with a coefficient above 0 its size matters, and the loss says so in `couples`.

    normalize: What counts alike: `token`, every trained token of the step, so long answers weigh more;
        `sequence`, every document, whatever its length.
    balance: Coefficient of the loss that spreads tokens evenly over the experts of a mixture. 0 only
        logs it; 0.01 is usual.
    router_z: Coefficient of the loss that keeps the router logits of a mixture small. 0 only logs it;
        0.001 is usual.
    """
    nll_M = -scores.logprob_M
    documents = torch.bincount(scores.document_M, minlength=len(batch))
    if normalize == "token":
        total, count, name = nll_M.sum(), float(len(nll_M)), "tokens"
    else:
        total = (nll_M / documents[scores.document_M]).sum()
        count, name = float((documents > 0).sum()), "sequences"
    metrics, couples = {}, ""
    for key, coefficient in (("balance", balance), ("z", router_z)):
        if key in scores.auxiliary:
            value = scores.auxiliary[key]
            metrics[f"router_{key}"] = (float(value.detach()) * count, count)
            if coefficient:
                total = total + coefficient * value * count
                couples = "the router losses are of a micro-batch as a whole"
    return Loss(total, count, name, metrics, couples)
