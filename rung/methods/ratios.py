"""How likely the policy makes a token now, against when it was drawn: importance ratios and what corrects them.

Three policies may speak of one token. The sampler drew it, in its own kernels and precision. The old policy
is the trainer's own model at the start of the round of updates. The current policy is being trained. Their
ratios are current / old, which the objective clips, and old / sampler, which is 1 up to rounding when both
hold the same weights and which a correction may put right where it is not.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Level = Literal["token", "sequence"]
Correction = Literal["none", "tis", "mis"]

FARTHEST = 20.0  # nats; exp(20) is 5e8, beyond which a ratio is a number no clip should have to see


def document_sums(value_M: Tensor, document_M: Tensor, documents: int) -> Tensor:
    """Sum over the trained tokens of each document, `[B]`; 0 for a document without any."""
    return value_M.new_zeros(documents).index_add(0, document_M, value_M)


def importance_ratio(
    logprob_M: Tensor, old_M: Tensor, document_M: Tensor, documents: int, level: Level
) -> Tensor:
    """current / old per token, with the gradient a surrogate `ratio * advantage` needs.

    token     r_t = exp(logp_t - old_t), the log-ratio held within +-20
    sequence  s_i = exp((1/L_i) sum_t (logp_t - old_t)), GSPO's geometric mean (2507.18071), given to every
              token as sg[s_i] p_t / sg[p_t]: the value is s_i, the gradient s_i grad logp_t, so that a mean
              over the tokens of a sequence has the gradient of s_i and advantages may differ by token
    """
    log_ratio_M = logprob_M - old_M
    if level == "token":
        return log_ratio_M.clamp(-FARTHEST, FARTHEST).exp()
    lengths_B = document_sums(torch.ones_like(logprob_M), document_M, documents)
    mean_B = document_sums(log_ratio_M.detach(), document_M, documents) / lengths_B.clamp(min=1)
    return mean_B[document_M].clamp(-FARTHEST, FARTHEST).exp() * (logprob_M - logprob_M.detach()).exp()


def mismatch_weight(
    old_M: Tensor,
    sampler_M: Tensor,
    document_M: Tensor,
    documents: int,
    *,
    correction: Correction,
    level: Level,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor]:
    """The factor that turns samples of the sampler into samples of the old policy, and where it was cut.

    rho = old / sampler, of the token or multiplied over the document. Truncated (tis): min(rho, high).
    Masked (mis): rho where low <= rho <= high, else 0. Neither has a gradient. The token's own ratio has
    little variance and a bias; the product is unbiased until cut and, in long documents, mostly is cut.
    """
    log_rho_M = (old_M - sampler_M).detach()
    if level == "sequence":
        log_rho_M = document_sums(log_rho_M, document_M, documents)[document_M]
    rho_M = log_rho_M.clamp(-FARTHEST, FARTHEST).exp()
    if correction == "tis":
        return rho_M.clamp(max=high), rho_M > high
    inside_M = (rho_M >= low) & (rho_M <= high)
    return rho_M * inside_M, ~inside_M
