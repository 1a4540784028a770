"""REINFORCE++: PPO's clip without a critic, the advantage normalised over the whole batch."""

from __future__ import annotations

from typing import Any, Literal

from rung.batch import Batch, Loss, TokenScores
from rung.methods.dapo import dapo


def reinforce_plus_plus(
    scores: TokenScores,
    batch: Batch,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    aggregation: Literal["token", "sequence", "sequence_sum", "fixed"] = "token",
    **parts: Any,
) -> Loss:
    """DAPO's surrogate with equal clips, as a loss; what is new is the credit.

    Plain: token rewards -beta (logp - log reference), the answer's reward at its last token, summed from each
    token on, then whitened over all tokens of the batch. With baseline: reward minus the mean of its group,
    whitened over all tokens of the batch, and the KL stays in the loss (`kl="k2"`).

    Source: 2501.03262. Changed: nothing. `parts` are further parts of `policy_gradient`.

    clip_low: How far below 1 the ratio of an unwanted token is still pushed.
    clip_high: How far above 1 the ratio of a wanted token is still pushed.
    aggregation: What counts alike.
    """
    return dapo(scores, batch, clip_low=clip_low, clip_high=clip_high, aggregation=aggregation, **parts)
