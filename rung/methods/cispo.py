"""CISPO: clip the weight of a token, never its gradient."""

from __future__ import annotations

from typing import Any, Literal

from rung.batch import Batch, Loss, TokenScores
from rung.methods.policy_gradient import policy_gradient


def cispo(
    scores: TokenScores,
    batch: Batch,
    *,
    weight_min: float = 0.0,
    weight_max: float = 5.0,
    aggregation: Literal["token", "sequence", "sequence_sum", "fixed"] = "token",
    **parts: Any,
) -> Loss:
    """REINFORCE with a bounded importance weight, so that rare turning words go on learning.

    loss = -1/(sum_i L_i) sum_i sum_t sg[clip(r, weight_min, weight_max)] A log p_t

    PPO's clip drops a token from the update once its ratio has left the range; those are often the rare words
    at which reasoning forks. Here they keep a gradient of bounded size. With weight_max without bound this is
    importance-weighted REINFORCE.

    Source: 2506.13585. Changed: the bounds are absolute weights and there is none below, the paper's intent;
    weight_max 5 is ScaleRL's (2510.13786). `parts` are further parts of `policy_gradient`.

    weight_min: Lower bound of the weight, itself a ratio.
    weight_max: Upper bound of the weight, itself a ratio.
    aggregation: What counts alike.
    """
    return policy_gradient(
        scores,
        batch,
        objective="cispo",
        weight_min=weight_min,
        weight_max=weight_max,
        aggregation=aggregation,
        **parts,
    )
