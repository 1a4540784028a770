"""GSPO: GRPO whose ratio, and so whose clip, is of the whole answer."""

from __future__ import annotations

from typing import Any, Literal

from rung.batch import Batch, Loss, TokenScores
from rung.methods.grpo import grpo


def gspo(
    scores: TokenScores,
    batch: Batch,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    ratio: Literal["token", "sequence"] = "sequence",
    aggregation: Literal["token", "sequence", "sequence_sum", "fixed"] = "sequence",
    **parts: Any,
) -> Loss:
    """The reward is of the answer, so the importance ratio should be too.

    loss = -(1/B) sum_i min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i),
    s_i = exp((1/L_i) sum_t (logp_t - old_t)).

    All tokens of an answer share one weight, and an answer is clipped as a whole. It does nothing where the
    update is strictly on-policy: then s_i = 1 and this is GRPO. Averaged over `token` instead, long answers
    would weigh more, which the method means to avoid.

    Source: 2507.18071, in its GSPO-token form: the same value and gradient where advantages are constant over
    an answer. Changed: nothing. `parts` are further parts of `policy_gradient`.

    clip_low: How far below 1 the ratio of an unwanted answer is still pushed.
    clip_high: How far above 1 the ratio of a wanted answer is still pushed.
    ratio: What is compared with the old policy.
    aggregation: What counts alike.
    """
    return grpo(
        scores, batch, clip_low=clip_low, clip_high=clip_high, ratio=ratio, aggregation=aggregation, **parts
    )
