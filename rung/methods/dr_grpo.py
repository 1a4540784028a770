"""Dr.GRPO: GRPO without its two biases."""

from __future__ import annotations

from typing import Any, Literal

from rung.batch import Batch, Loss, TokenScores
from rung.methods.grpo import grpo


def dr_grpo(
    scores: TokenScores,
    batch: Batch,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    aggregation: Literal["token", "sequence", "sequence_sum", "fixed"] = "fixed",
    max_length: int = 0,
    **parts: Any,
) -> Loss:
    """Divide by a constant instead of the answer's length, and do not divide by the group's deviation.

    loss = -(1/B) (1/max_length) sum_i sum_t min(r A, clip(r) A), A_i = R_i - mean (`groups.py`, `group_mean`).

    With 1/L_i a long wrong answer is punished less per token than a short one, so wrong answers grow; with
    1/std prompts that are nearly always or nearly never solved weigh too much. On-policy the gradient here is
    (G-1)/G times the policy gradient, over max_length.

    Source: 2503.20783. Changed: nothing. `parts` are further parts of `policy_gradient`.

    clip_low: How far below 1 the ratio of an unwanted token is still pushed.
    clip_high: How far above 1 the ratio of a wanted token is still pushed.
    aggregation: What counts alike.
    max_length: The constant length, the largest number of tokens an answer may have. It must be given.
    """
    return grpo(
        scores,
        batch,
        clip_low=clip_low,
        clip_high=clip_high,
        aggregation=aggregation,
        max_length=max_length,
        **parts,
    )
