"""What a model says of a batch: log-probabilities of the trained tokens, without logits in memory.

The one way from hidden states to numbers a method can use. Only positions that predict a trained token
reach the head, so prompts cost nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rung.batch import Batch, TokenScores, prediction_sites
from rung.kernels.invariant import pad_rows
from rung.kernels.linear_logprob import linear_logprob
from rung.models.decoder import Documents
from rung.models.fallback import Model
from rung.models.parts import router_losses


def score(
    model: Model,
    batch: Batch,
    *,
    entropy: bool = False,
    top_k: int = 0,
    temperature: float = 1.0,
    head_float32: bool = False,
    mean_over: Literal["", "token", "sequence"] = "",
    credit_M: Tensor | None = None,
    perturb: Callable[[Tensor], Tensor] | None = None,
    heads: Mapping[str, nn.Module] | None = None,
) -> TokenScores:
    """float32 log p of each trained token given its own document, in order, plus what was asked for.

    `mean_over` is a hint, never a promise: a caller whose loss will be the mean of these log-probs over
    tokens or sequences, each weighed by `credit_M` where that is given, saves one matrix product by saying so
    (see `linear_logprob`). `heads` read one number each off the states that predict the trained tokens.
    """
    sites = trained_sites(model, batch, perturb)
    states_MD, targets_M, document_M = sites.states_MD, sites.targets_M, sites.document_M
    values = {name: head(states_MD.float()).squeeze(1) for name, head in (heads or {}).items()}
    guess_M = None
    if mean_over:
        trained_B = torch.bincount(document_M, minlength=len(batch))
        guess_M = 1.0 / (trained_B if mean_over == "sequence" else trained_B.clamp(max=1))[document_M]
        guess_M = guess_M if credit_M is None else guess_M * credit_M
    if model.batch_invariant:
        states_MD, targets_M, guess_M = pad_rows(states_MD), pad_rows(targets_M), None
    out = linear_logprob(
        states_MD,
        model.head_weight,
        targets_M,
        bias_V=model.head_bias,
        softcap=model.config.logit_softcap,
        temperature=temperature,
        entropy=entropy,
        top_k=top_k,
        head_float32=head_float32,
        guess_N=guess_M,
    )
    parts = (out.logprob_N, out.entropy_N, out.top_logprobs_Nk, out.top_ids_Nk)
    logprob_M, entropy_M, top_logprobs_Mk, top_ids_Mk = (
        p if p is None else p[: len(document_M)] for p in parts
    )
    assert logprob_M is not None
    return TokenScores(
        logprob_M, document_M, entropy_M, top_logprobs_Mk, top_ids_Mk,
        auxiliary=sites.auxiliary, values=values,
    )  # fmt: skip


@dataclass(frozen=True)
class Sites:
    """What predicts the trained tokens of a batch, in order, and what it should have predicted."""

    states_MD: Tensor
    targets_M: Tensor
    document_M: Tensor
    auxiliary: dict[str, Tensor]  # router losses of a mixture of experts


def trained_sites(model: Model, batch: Batch, perturb: Callable[[Tensor], Tensor] | None = None) -> Sites:
    """The hidden states that predict the trained tokens: all a loss needs of the model but its head."""
    documents = Documents(batch.lengths, batch.parents, model.batch_invariant)
    hidden = model(batch.token_ids_N, batch.positions_N, documents, perturb)
    sites_M, tokens_M = prediction_sites(batch)
    lengths_B = torch.tensor(batch.lengths, device=batch.token_ids_N.device)
    document_N = torch.repeat_interleave(torch.arange(len(batch), device=lengths_B.device), lengths_B)
    auxiliary = {}
    if hidden.router_logits:
        top_k = next(experts.top_k for experts in model.config.experts if experts is not None)
        auxiliary = router_losses(hidden.router_logits, top_k)
    return Sites(hidden.states_ND[sites_M], batch.token_ids_N[tokens_M], document_N[tokens_M], auxiliary)


def neftune(alpha: float, lengths: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Uniform noise of size alpha / sqrt(T D) on the embeddings of a document of T tokens (2310.05914)."""

    def perturb(x_ND: Tensor) -> Tensor:
        tokens_N = torch.tensor(lengths, dtype=torch.float32).repeat_interleave(torch.tensor(lengths))
        scale_N = (alpha / (tokens_N * x_ND.shape[1]).sqrt()).to(x_ND)
        return x_ND + (torch.rand_like(x_ND) * 2 - 1) * scale_N[:, None]

    return perturb
