"""Credit with a critic: rewards along the answer, what the critic expected of it, and GAE between the two.

    r_t = -beta (log p_t - log reference_t) + dense_t,   at the last token + R
    A, R = GAE(r, V)                                       returns.py

`dense_t` is RTO's (2404.18922): clip(dense_weight (log dpo_t - log reference_t), -dense_limit, dense_limit), the
reward that a policy trained by DPO implies, token by token.

With a cost (Safe RLHF, 2310.12773) there are two critics and two advantages. The KL is split between them,
kl_share to the reward and 1 - kl_share to the cost, and what the policy follows is

    A = (A_reward - multiplier A_cost) / (1 + multiplier)

`multiplier` is the Lagrange multiplier of the constraint E[cost] <= limit, see `adapt_multiplier`.
"""

from __future__ import annotations

from math import exp, log

import numpy as np
from numpy import ndarray

from rung.advantages.recipes import Recipe
from rung.advantages.returns import at_last_token, gae


def critic_credit(
    recipe: Recipe,
    reward_R: ndarray,
    penalty_N: ndarray,
    lengths: tuple[int, ...],
    by_model_N: ndarray,
    value_N: ndarray,
    dense_N: ndarray | None = None,
    cost_R: ndarray | None = None,
    cost_value_N: ndarray | None = None,
) -> tuple[ndarray, dict[str, ndarray]]:
    """`(advantage_N, columns)`, the columns being what the critics' losses read; NaN rewards count as 0.

    `penalty_N` is -beta k1, `dense_N` the DPO policy's log-prob less the reference's.
    """
    share = recipe.kl_share if recipe.multiplier is not None else 1.0
    reward_N = at_last_token(np.nan_to_num(reward_R), lengths, by_model_N) + share * penalty_N
    if recipe.dense_weight:
        assert dense_N is not None
        dense_N = np.clip(recipe.dense_weight * dense_N, -recipe.dense_limit, recipe.dense_limit)
        reward_N = reward_N + np.where(by_model_N, dense_N, 0.0)
    options = recipe.estimator_options
    advantage_N, return_N = gae(reward_N, value_N, lengths, by_model_N, **options)
    columns = {"old_value": np.where(by_model_N, value_N, 0.0), "return_value": return_N}
    if recipe.multiplier is None:
        return advantage_N, columns
    assert cost_R is not None and cost_value_N is not None
    cost_N = at_last_token(np.nan_to_num(cost_R), lengths, by_model_N) - (1 - share) * penalty_N
    worse_N, cost_return_N = gae(cost_N, cost_value_N, lengths, by_model_N, **options)
    columns |= {"old_cost": np.where(by_model_N, cost_value_N, 0.0), "return_cost": cost_return_N}
    return (advantage_N - recipe.multiplier * worse_N) / (1 + recipe.multiplier), columns


def adapt_multiplier(
    multiplier: float, cost: float, *, limit: float = 0.0, rate: float = 0.1, largest: float = 5.0
) -> float:
    """The multiplier of the next round: up while the constraint is broken, else down, and always above 0.

    log m <- log m + rate m (cost - limit), a step of gradient ascent on m (cost - limit) in log m
    (2310.12773). `cost` is the mean over the last episodes; `largest` bounds how dear a cost may become. A cost of
    thousands (tokens, say) may ask for a step beyond what a float holds: that far it goes, neither to 0 nor to infinity.
    """
    moved = log(multiplier) + rate * multiplier * (cost - limit)
    return min(exp(min(max(moved, -700.0), 700.0)), largest)
