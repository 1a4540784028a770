"""RLOO: REINFORCE whose baseline is the mean of the other answers to the same prompt."""

from __future__ import annotations

from typing import Any, Literal

from rung.batch import Batch, Loss, TokenScores
from rung.methods.reinforce import reinforce


def rloo(
    scores: TokenScores,
    batch: Batch,
    *,
    aggregation: Literal["token", "sequence", "sequence_sum", "fixed"] = "sequence_sum",
    **parts: Any,
) -> Loss:
    """REINFORCE, as a loss; what is new is the credit (`advantages/groups.py`, `leave_one_out`).

    A_i = R_i - mean of the other G - 1 rewards = G/(G-1) (R_i - mean of all), unbiased because the baseline
    does not depend on answer i. The KL enters the reward: R_i = r_i - beta sum_t (logp_t - log reference_t).

    Source: 2402.14740. Changed: nothing. `parts` are further parts of `policy_gradient`.

    aggregation: What counts alike; `sequence_sum` is the gradient of the expected reward.
    """
    return reinforce(scores, batch, aggregation=aggregation, **parts)
