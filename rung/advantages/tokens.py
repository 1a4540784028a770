"""Which tokens of an answer its credit falls on: functions from (advantage, entropy) to (advantage, weight).

All arrays are over the model's own tokens of the whole batch, on all ranks: quantiles and shares are of the
batch, not of a micro-batch. Entropies are of the policy that sampled, in nats, at temperature 1. A weight is a
factor on the token's loss and counts in the denominator; an advantage of 0 leaves the denominator as it is.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy import ndarray


def entropy_mask(
    advantage_N: ndarray,
    entropy_N: ndarray,
    *,
    share: float = 0.2,
    counted: Literal["all", "kept"] = "all",
) -> tuple[ndarray, ndarray]:
    """Policy gradient on the `share` of tokens with the highest entropy only (the 80/20 rule, 2506.01939).

    A token is kept where H >= the (1 - share)-quantile of H over the batch. `counted` says what divides the
    loss: `all` tokens, the paper's equation (credit 0, weight 1), or those `kept` (weight 0 for the others,
    which also frees them from the KL), some five times as large a step.
    """
    if not len(entropy_N):
        return np.asarray(advantage_N, np.float64), np.zeros(0)
    kept_N = entropy_N >= np.quantile(entropy_N, 1 - share)
    advantage_N = np.where(kept_N, advantage_N, 0.0)
    return advantage_N, kept_N.astype(np.float64) if counted == "kept" else np.ones(len(kept_N))


def entropy_shaped(
    advantage_N: ndarray, entropy_N: ndarray, *, alpha: float = 0.4, kappa: float = 2.0
) -> tuple[ndarray, ndarray]:
    """A + min(alpha H, |A| / kappa): more credit where the policy was undecided (2506.14758).

    With kappa above 1 no advantage changes its sign, and one of 0 stays 0. It is no entropy bonus: nothing
    is differentiated through H. alpha is 0.4 with GRPO, 0.1 with PPO.
    """
    if kappa <= 1:
        raise ValueError(f"kappa is {kappa}; at 1 and below it turns the sign of negative advantages")
    advantage_N = np.asarray(advantage_N, np.float64)
    bonus_N = np.minimum(alpha * np.asarray(entropy_N, np.float64), np.abs(advantage_N) / kappa)
    return advantage_N + bonus_N, np.ones(len(advantage_N))


def decision_tokens(
    entropy_N: ndarray, *, share: float = 0.02, threshold: float | None = None
) -> tuple[ndarray, ndarray]:
    """ReasonMaxxer's (2605.06241) columns `decision` and `weight`, for `methods/reason_maxxer.py`.

    A decision is a token whose entropy under the base model reaches `threshold`, in nats; by default that
    which `share` of the tokens reach (the paper calibrates it per model to 1 to 4 %: 1.4 nats for
    Qwen2.5-1.5B). The weight is 1 on decisions and |D| / (number of others) elsewhere.
    """
    if not len(entropy_N):
        return np.zeros(0), np.zeros(0)
    bound = np.quantile(entropy_N, 1 - share) if threshold is None else threshold
    decision_N = entropy_N >= bound
    decisions = int(decision_N.sum())
    others = len(decision_N) - decisions
    weight_N = np.where(decision_N, 1.0, decisions / others if others else 0.0)
    return decision_N.astype(np.float64), weight_N
