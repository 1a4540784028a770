"""DelTA: weigh tokens by how much they tell good answers from bad ones.

The policy-gradient update is a sum of token gradients, positive ones minus negative ones, so it acts as a
linear discriminator between the two centroids. Tokens that occur in both alike (formatting) dominate the
centroids and say nothing; DelTA gives them less weight and the side-specific ones more.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-8


def delta_weights(
    advantage_N: Tensor,
    logprob_N: Tensor,
    hidden_ND: Tensor,
    *,
    refine: int = 1,
    low: float = 0.8,
    high: float = 1.2,
) -> Tensor:
    """A weight per token around 1, its mean over the tokens exactly 1 (2605.21467).

    All over the model's tokens of the rollout batch; `logprob_N` and `hidden_ND`, the state entering the
    output head that predicted the token, are of the policy that sampled.

        v_t = (1 - p_t) h_t                     the size and direction of the token's gradient at the head
        mu+- = sum |A| a v / sum |A| a          over tokens of positive, negative advantage; a = 1 at first
        m_t = |v_t - mu_other|^2 - |v_t - mu_own|^2
        a_t = sigmoid(m_t / (std of m over the token's side))          `refine` times, then once more
        lambda_t = low + (high - low) a_t, `low` where A = 0; then scaled to mean 1

    As in the paper's code, the last a_t uses the refined centroids with the deviations of the pass before.
    The loss is DAPO's with these weights, so it is divided by their sum. Changed: the deviation is the
    population's, so that a side of one token has one. A side without tokens has its centroid at 0.
    """
    wide = torch.promote_types(hidden_ND.dtype, torch.float32)  # bf16 states are too coarse for distances
    advantage_N, logprob_N = advantage_N.to(wide), logprob_N.to(wide)
    gradient_ND = (1 - logprob_N.exp())[:, None] * hidden_ND.to(wide)
    size_N, sides = advantage_N.abs(), (advantage_N > 0, advantage_N < 0)
    share_N = torch.ones_like(size_N)
    deviations: list[Tensor] = []
    for _ in range(refine):
        margin_N = _margins(gradient_ND, size_N * share_N, sides)
        deviations = _deviations(margin_N, sides)
        share_N = _shares(margin_N, deviations, sides)
    margin_N = _margins(gradient_ND, size_N * share_N, sides)
    share_N = _shares(margin_N, deviations or _deviations(margin_N, sides), sides)
    weight_N = low + (high - low) * share_N
    return weight_N / weight_N.mean().clamp(min=TINY)


def _margins(gradient_ND: Tensor, size_N: Tensor, sides: tuple[Tensor, Tensor]) -> Tensor:
    """How much nearer each token is to its own side's centroid than to the other's, in squared distance."""
    centroids = [(size_N * side) @ gradient_ND / (size_N * side).sum().clamp(min=TINY) for side in sides]
    to_positive_N, to_negative_N = ((gradient_ND - centre).square().sum(1) for centre in centroids)
    return torch.where(sides[0], to_negative_N - to_positive_N, to_positive_N - to_negative_N)


def _deviations(margin_N: Tensor, sides: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [
        margin_N[side].std(correction=0).clamp(min=TINY) if side.any() else margin_N.new_ones(())
        for side in sides
    ]


def _shares(margin_N: Tensor, deviations: list[Tensor], sides: tuple[Tensor, Tensor]) -> Tensor:
    """sigmoid(margin / deviation of the side); 0 for tokens on neither."""
    shares = [side * torch.sigmoid(margin_N / scale) for side, scale in zip(sides, deviations, strict=True)]
    return shares[0] + shares[1]
