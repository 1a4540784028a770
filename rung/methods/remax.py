"""ReMax: REINFORCE whose baseline is the reward of the greedy answer to the same prompt."""

from __future__ import annotations

from typing import Any, Literal

from rung.batch import Batch, Loss, TokenScores
from rung.methods.reinforce import reinforce


def remax(
    scores: TokenScores,
    batch: Batch,
    *,
    aggregation: Literal["token", "sequence", "sequence_sum", "fixed"] = "sequence_sum",
    **parts: Any,
) -> Loss:
    """REINFORCE, as a loss; what is new is the credit (`advantages/groups.py`, `above_greedy`).

    A_t = sum of the rewards from t on, minus R(greedy answer). It costs one greedy answer per prompt and
    works with a single sample.

    Source: 2310.10505. Changed: nothing. `parts` are further parts of `policy_gradient`.

    aggregation: What counts alike; `sequence_sum` is the gradient of the expected reward.
    """
    return reinforce(scores, batch, aggregation=aggregation, **parts)
