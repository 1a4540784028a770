"""How far the policy is from the reference, estimated on the token that was drawn: k1, k2, k3.

With d = log reference - log policy of the drawn token (Schulman, "Approximating KL divergence"):

    k1 = -d                 unbiased for KL(policy || reference), may be negative
    k2 = d^2 / 2            biased, small variance near the reference
    k3 = exp(d) - d - 1     unbiased, never negative

Value and gradient are separate questions. Differentiated as they stand on samples of the policy, k1 has
expected gradient 0, k2 that of KL(policy || reference), and k3 that of KL(reference || policy). The reason is
that the samples move with the policy, which autograd cannot see.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from rung.methods.ratios import FARTHEST

Estimator = Literal["k1", "k2", "k3"]


def kl_estimate(logprob_M: Tensor, reference_M: Tensor, kind: Estimator) -> Tensor:
    """The estimator, differentiable as it stands."""
    d_M = reference_M - logprob_M
    if kind == "k1":
        return -d_M
    if kind == "k2":
        return d_M.square() / 2
    return d_M.clamp(-FARTHEST, FARTHEST).exp() - d_M - 1


def kl_loss(
    logprob_M: Tensor,
    reference_M: Tensor,
    ratio_M: Tensor,
    kind: Estimator,
    gradient: Literal["reverse", "plain"],
) -> Tensor:
    """A per-token loss whose value is the estimator.

    reverse  value r k, gradient sg[r] (logp - log reference) grad logp, with r = current / old: in expectation
             the gradient of KL(policy || reference) at the prefixes that were visited, whoever drew the
             samples. k2 has this gradient by itself, and so has r k3 (the "unbiased KL" of DeepSeek-V3.2):
             k3 grad r + r grad k3 = r (exp(d) - d - 1 + 1 - exp(d)) grad logp = -r d grad logp.
    plain    the estimator as the GRPO paper differentiates it.
    """
    estimate_M = kl_estimate(logprob_M, reference_M, kind)
    if gradient == "plain":
        return estimate_M
    square_M = kl_estimate(logprob_M, reference_M, "k2")
    weight_M = ratio_M.detach()
    return weight_M * (square_M + (estimate_M - square_M).detach())
