"""A recipe applied to one round of rollouts: rewards in, columns for the batch out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from rung.advantages import groups, tokens
from rung.advantages.actor_critic import critic_credit
from rung.advantages.filters import carries_signal, overlong_filter
from rung.advantages.recipes import Recipe
from rung.advantages.returns import documents, kl_penalty, returns, spread, whiten


@dataclass(frozen=True)
class Round:
    """What credit is made of. Parts a recipe does not need may stay None (see `Recipe.needs_...`)."""

    reward_R: ndarray  # float64, NaN where there is no Score
    group_R: ndarray  # int, rollouts of one prompt share it
    truncated_R: ndarray  # bool, ran into the token limit
    lengths: tuple[int, ...]  # tokens of each rollout after its prompt
    by_model_N: ndarray  # bool, of all of them laid end to end
    greedy_R: ndarray | None = None  # reward of the greedy answer to the same prompt
    logprob_N: ndarray | None = None  # under the policy that sampled
    reference_N: ndarray | None = None  # under the reference
    entropy_N: ndarray | None = None  # nats
    hidden_ND: ndarray | None = None  # states entering the output head, float32
    value_N: ndarray | None = None  # what the critic expects before each token
    dense_N: ndarray | None = None  # log-prob under a policy trained by DPO, less the reference's
    cost_R: ndarray | None = None  # like a reward, less is better
    cost_value_N: ndarray | None = None  # what the critic of costs expects


@dataclass(frozen=True)
class Credit:
    """`columns` hold one float64 per token of the round. Only rollouts in `kept_R` should train.

    `advantage_R` is what the estimator said, NaN where it said nothing: the number to log and to look at.
    """

    columns: dict[str, ndarray]
    kept_R: ndarray
    advantage_R: ndarray


def assign(recipe: Recipe, round: Round, *, signal_R: ndarray | None = None) -> Credit:
    """Advantage and weight per token; for ReasonMaxxer also `decision`, with a critic what it should have said.

    `signal_R` is the reward dynamic sampling looks at, if it is not the one trained on. Tokens of the
    environment and rollouts not kept have advantage 0 and weight 0.
    """
    penalty_N = np.zeros(len(round.by_model_N))
    if recipe.kl_in_reward != "none" and recipe.reward_beta:
        logprob_N, reference_N = _given(round.logprob_N), _given(round.reference_N)
        penalty_N = kl_penalty(logprob_N, reference_N, round.by_model_N, beta=recipe.reward_beta)
    reward_R = np.asarray(round.reward_R, np.float64)
    reward_R = reward_R - recipe.missing_end_penalty * round.truncated_R
    if recipe.kl_in_reward == "answer":
        reward_R = reward_R + [penalty_N[rows].sum() for rows in documents(round.lengths)]
    advantage_R = _estimate(recipe, reward_R, round)
    kept_R = ~np.isnan(advantage_R)
    if recipe.dynamic_sampling:
        kept_R &= carries_signal(round.reward_R if signal_R is None else signal_R, round.group_R)
    if recipe.overlong_filter:
        kept_R &= overlong_filter(round.truncated_R) > 0
    learned: dict[str, ndarray] = {}
    if recipe.needs_critic:
        advantage_N, learned = critic_credit(
            recipe, reward_R, penalty_N, round.lengths, round.by_model_N, _given(round.value_N),
            round.dense_N, round.cost_R, round.cost_value_N,
        )  # fmt: skip
    else:
        advantage_N = spread(np.where(kept_R, advantage_R, 0.0), round.lengths)
        if recipe.kl_in_reward == "token":
            advantage_N += returns(penalty_N, round.lengths, round.by_model_N)
    trained_N = round.by_model_N & np.repeat(kept_R, round.lengths)
    learned = {name: np.where(trained_N, column, 0.0) for name, column in learned.items()}
    if recipe.whiten:
        advantage_N = whiten(advantage_N, trained_N)
    return Credit(_columns(recipe, round, advantage_N, trained_N) | learned, kept_R, advantage_R)


def _estimate(recipe: Recipe, reward_R: ndarray, round: Round) -> ndarray:
    """One advantage per rollout."""
    if recipe.estimator in ("reward", "gae"):  # a critic's baseline is subtracted token by token
        return reward_R
    if recipe.estimator == "batch_mean":
        return groups.above_batch(reward_R)
    if recipe.estimator == "greedy":
        return groups.above_greedy(reward_R, _given(round.greedy_R))
    grouped: dict[str, Callable[..., ndarray]] = {
        "leave_one_out": groups.leave_one_out,
        "group_mean": groups.group_mean,
        "group_normalized": groups.group_normalized,
        "group_mean_batch_std": groups.group_mean_batch_std,
    }
    return grouped[recipe.estimator](reward_R, round.group_R, **recipe.estimator_options)


def _columns(recipe: Recipe, round: Round, advantage_N: ndarray, trained_N: ndarray) -> dict[str, ndarray]:
    """The credit of the recipe's tokens, put back among those that do not train."""
    advantage, options = advantage_N[trained_N], recipe.credit_options
    parts = {"advantage": advantage, "weight": np.ones(len(advantage))}
    if recipe.token_credit == "entropy_mask":
        masked = tokens.entropy_mask(advantage, _given(round.entropy_N)[trained_N], **options)
        parts = dict(zip(parts, masked, strict=True))
    elif recipe.token_credit == "entropy_shaped":
        shaped = tokens.entropy_shaped(advantage, _given(round.entropy_N)[trained_N], **options)
        parts = dict(zip(parts, shaped, strict=True))
    elif recipe.token_credit == "decisions":
        decision, weight = tokens.decision_tokens(_given(round.entropy_N)[trained_N], **options)
        parts |= {"decision": decision, "weight": weight}
    elif recipe.token_credit == "delta" and len(advantage):
        import torch

        from rung.advantages.delta import delta_weights

        arrays = (advantage, _given(round.logprob_N)[trained_N], _given(round.hidden_ND)[trained_N])
        parts["weight"] = delta_weights(*map(torch.from_numpy, arrays), **options).numpy()
    columns = {name: np.zeros(len(trained_N)) for name in parts}
    for name, part in parts.items():
        columns[name][trained_N] = part
    return columns


def _given(array: ndarray | None) -> ndarray:
    if array is None:
        raise ValueError("the recipe reads a part of the round that was not given; see Recipe.needs_...")
    return array
