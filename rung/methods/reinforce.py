"""REINFORCE: the plain policy gradient."""

from __future__ import annotations

from typing import Any, Literal

from rung.batch import Batch, Loss, TokenScores
from rung.methods.policy_gradient import policy_gradient


def reinforce(
    scores: TokenScores,
    batch: Batch,
    *,
    aggregation: Literal["token", "sequence", "sequence_sum", "fixed"] = "sequence_sum",
    **parts: Any,
) -> Loss:
    """Make what earned more than the baseline likelier, in proportion.

    loss = -(1/B) sum_i A_i sum_t log p_t, with A_i = R_i - baseline, the whole answer being one action.

    Source: Williams 1992. Changed: nothing. It is right for one update per round of samples only, because it
    does not look at the ratio to the old policy. `parts` are further parts of `policy_gradient`.

    aggregation: What counts alike; `sequence_sum` is the gradient of the expected reward.
    """
    return policy_gradient(scores, batch, objective="reinforce", aggregation=aggregation, **parts)
