"""DAPO: the clipped surrogate with more room upwards, averaged over tokens."""

from __future__ import annotations

from typing import Any, Literal

from rung.batch import Batch, Loss, TokenScores
from rung.methods.policy_gradient import policy_gradient


def dapo(
    scores: TokenScores,
    batch: Batch,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 0.0,
    aggregation: Literal["token", "sequence", "sequence_sum", "fixed"] = "token",
    **parts: Any,
) -> Loss:
    """Let rare tokens rise further than frequent ones fall, and let every token weigh the same.

    loss = -1/(sum_i L_i) sum_i sum_t min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), no KL.

    The other two of the four ideas are about data: groups whose rewards are all equal are resampled
    (`advantages/filters.py`, `carries_signal`), and overlong answers are punished softly or left out
    (`overlong_filter`, a weight of 0).

    Source: 2503.14476. Changed: nothing; the tokens counted are those of the whole optimizer step. `parts`
    are further parts of `policy_gradient`.

    clip_low: How far below 1 the ratio of an unwanted token is still pushed.
    clip_high: How far above 1 the ratio of a wanted token is still pushed.
    dual_clip: Largest ratio with which an unwanted token is pushed down, above 1 (3 is usual); 0 sets none.
    aggregation: What counts alike.
    """
    return policy_gradient(
        scores,
        batch,
        objective="clip",
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
        aggregation=aggregation,
        **parts,
    )
