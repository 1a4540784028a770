"""GRPO: DAPO's surrogate with equal clips, averaged over each answer first."""

from __future__ import annotations

from typing import Any, Literal

from rung.batch import Batch, Loss, TokenScores
from rung.methods.dapo import dapo


def grpo(
    scores: TokenScores,
    batch: Batch,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 0.0,
    aggregation: Literal["token", "sequence", "sequence_sum", "fixed"] = "sequence",
    beta: float = 0.0,
    **parts: Any,
) -> Loss:
    """PPO without a critic: the baseline is the mean reward of the answers to the same prompt.

    loss = -(1/B) sum_i (1/L_i) sum_t [ min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) - beta kl ],
    A_i = (R_i - mean) / (std + 1e-6) within the group (`advantages/groups.py`, `group_normalized`).

    Source: 2402.03300. Changed: beta is 0 (the paper has 0.04), and with one the gradient is that of
    KL(policy || reference) while the value shown is the paper's k3; `kl_gradient="plain"` gives the paper's
    gradient too. The paper never states its clip; 0.2 is PPO's. `parts` are further parts of
    `policy_gradient`.

    clip_low: How far below 1 the ratio of an unwanted token is still pushed.
    clip_high: How far above 1 the ratio of a wanted token is still pushed.
    dual_clip: Largest ratio with which an unwanted token is pushed down, above 1 (3 is usual); 0 sets none.
    aggregation: What counts alike.
    beta: Strength of the pull towards the reference; 0 needs no reference.
    """
    return dapo(
        scores,
        batch,
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
        aggregation=aggregation,
        beta=beta,
        **parts,
    )
