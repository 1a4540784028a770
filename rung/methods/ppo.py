"""PPO: the clipped surrogate on a critic's advantages, and the regression that teaches the critic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from rung.batch import Batch, Loss, TokenScores
from rung.methods.aggregate import aggregate
from rung.methods.kl import kl_estimate
from rung.methods.policy_gradient import policy_gradient

CRITICS = ("value", "cost")  # what a critic expects: the reward still to come, the cost still to come


def ppo(
    scores: TokenScores,
    batch: Batch,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 0.0,
    aggregation: Literal["token", "sequence", "sequence_sum", "fixed"] = "token",
    max_length: int = 0,
    value_clip: float = 0.2,
    value_weight: float = 0.1,
    **parts: Any,
) -> Loss:
    """Actor and critic in one loss, each token counted alike.

    policy  -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
    value   (1/2) max( (V - R)^2, (clip(V, V_old - value_clip, V_old + value_clip) - R)^2 )
    loss    policy + value_weight value - entropy_bonus H, mean over the tokens of the whole optimizer step

    A and R = A + V_old are GAE's, A whitened and R not (`advantages/actor_critic.py`). V is what the critic says
    where the token is predicted, `scores.values["value"]`; V_old and R are the columns `old_value` and
    `return_value`. With a critic of costs its own loss is added likewise (`cost`).

    Source: 1707.06347, 1909.08593. Changed: nothing; the KL to the reference is in the reward, and `beta` may put
    one into the loss besides. With a critic of its own and AdamW, value_weight only matters to gradient clipping;
    with a shared trunk it weighs what the trunk is for. `parts` are further parts of `policy_gradient`.

    clip_low: How far below 1 the ratio of an unwanted token is still pushed.
    clip_high: How far above 1 the ratio of a wanted token is still pushed.
    dual_clip: Largest ratio with which an unwanted token is pushed down, above 1 (3 is usual); 0 sets none.
    aggregation: What counts alike.
    max_length: The constant of the aggregation `fixed`.
    value_clip: How far the critic may move from its answer of before the round; 0 does not clip.
    value_weight: Weight of the critic's loss beside the policy's.
    """
    policy = policy_gradient(
        scores,
        batch,
        objective="clip",
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
        aggregation=aggregation,
        max_length=max_length,
        **parts,
    )
    total, metrics = policy.sum, dict(policy.metrics)
    like_M = scores.logprob_M
    weight_M = batch.column("weight").to(like_M) if "weight" in batch.columns else torch.ones_like(like_M)
    for name, value_M in scores.values.items():
        value_M = value_M.to(like_M.dtype)
        old_M, return_M = (batch.column(f"{kind}_{name}").to(like_M) for kind in ("old", "return"))
        loss_M, clipped_M = value_loss(value_M, old_M, return_M, value_clip)
        added, _, _ = aggregate(loss_M, weight_M, scores.document_M, len(batch), aggregation, max_length)
        total = total + value_weight * added
        metrics |= measure_critic(name, loss_M, clipped_M, old_M, return_M, weight_M)
    if "old_logprob" in batch.columns and len(like_M):
        moved_M = kl_estimate(batch.column("old_logprob").to(like_M), like_M.detach(), "k3")
        metrics["update_kl"] = (float((moved_M * weight_M).sum()), float(weight_M.sum()))
    return replace(policy, sum=total, metrics={name: part for name, part in metrics.items() if part[1]})


def value_loss(value_M: Tensor, old_M: Tensor, return_M: Tensor, value_clip: float) -> tuple[Tensor, Tensor]:
    """Half the squared error, pessimistic within the clip, and where the clip holds the critic back."""
    plain_M = (value_M - return_M).square()
    if not value_clip:
        return plain_M / 2, torch.zeros_like(plain_M, dtype=torch.bool)
    near_M = torch.minimum(torch.maximum(value_M, old_M - value_clip), old_M + value_clip)
    clipped_M = (near_M - return_M).square()
    return torch.maximum(plain_M, clipped_M) / 2, (clipped_M > plain_M).detach()


@torch.no_grad()
def measure_critic(
    name: str, loss_M: Tensor, clipped_M: Tensor, old_M: Tensor, return_M: Tensor, weight_M: Tensor
) -> dict[str, tuple[float, float]]:
    """Means over the trained tokens; `metrics.derived` makes the explained variance of them, for whole steps."""
    values = {
        f"{name}_loss": loss_M.detach(),
        f"{name}_clipped": clipped_M.to(loss_M.dtype),
        f"{name}_mean": old_M,
        f"{name}_error": (return_M - old_M).square(),
        f"{name}_return": return_M,
        f"{name}_return_square": return_M.square(),
    }
    count = float(weight_M.sum())
    return {key: (float((part_M * weight_M).sum()), count) for key, part_M in values.items()}
