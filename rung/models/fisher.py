"""How much a model's predictions on some documents depend on each weight: the diagonal of the Fisher information.

    F_i = mean over trained positions of E_{y ~ p(. | prefix)} [ (d log p(y) / d w_i)^2 ]

The label is drawn from the model, not read from the data: with the data's own labels (the "empirical Fisher") F
would be large where the model is wrong, not where it is sure. Draws at the positions of a document are independent
given its text and d log p has mean 0 under the model, so mixed terms vanish and the square of the document's whole
gradient is an unbiased estimate of the sum: one backward for each document.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rung.batch import Batch, Example, collate, prediction_sites
from rung.kernels.linear_logprob import linear_logprob
from rung.models.decoder import Documents
from rung.models.fallback import Model

CHUNK = 256  # positions whose logits are in memory at once


def fisher_diagonal(
    model: Model, examples: Sequence[Example], *, seed: int = 0, device: str | torch.device = "cpu"
) -> dict[str, Tensor]:
    """float32, by name of the model's parameters; per token. The model's gradients are cleared."""
    model.eval()
    dice = torch.Generator(device).manual_seed(seed)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    total = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    tokens = 0
    for example in examples:
        logprob_M = of_drawn_labels(model, collate([example]).to(device), dice)
        logprob_M.sum().backward()
        tokens += len(logprob_M)
        for name, weight in weights.items():
            if weight.grad is not None:  # an expert that no token chose has none
                gradient = weight.grad.float()
                total[name].addcmul_(gradient, gradient)
                weight.grad = None
    return {name: one.div_(max(tokens, 1)) for name, one in total.items()}


def of_drawn_labels(model: Model, batch: Batch, dice: torch.Generator) -> Tensor:
    """log p of a label drawn from the model at each trained position, given the text before it."""
    documents = Documents(batch.lengths, batch.parents, model.batch_invariant)
    hidden = model(batch.token_ids_N, batch.positions_N, documents)
    states_MD = hidden.states_ND[prediction_sites(batch)[0]]
    out = linear_logprob(
        states_MD,
        model.head_weight,
        draw(model, states_MD, dice),
        bias_V=model.head_bias,
        softcap=model.config.logit_softcap,
    )
    assert out.logprob_N is not None
    return out.logprob_N


@torch.no_grad()
def draw(model: Model, states_MD: Tensor, dice: torch.Generator) -> Tensor:
    parts = [
        torch.multinomial(model.logits(part).float().softmax(-1), 1, generator=dice).squeeze(1)
        for part in states_MD.split(CHUNK)
    ]
    return torch.cat(parts)
