"""Rewards along an answer: what each token is paid, what is still to come, and GAE.

Tokens an environment wrote are no actions: they are stepped over, neither discounting nor receiving credit,
and hold 0. What is paid at one belongs to the model's last token before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy import ndarray


def documents(lengths: Sequence[int]) -> Iterator[slice]:
    """Where each rollout's tokens lie."""
    start = 0
    for length in lengths:
        yield slice(start, start + length)
        start += length


def spread(value_R: ndarray, lengths: Sequence[int]) -> ndarray:
    """A rollout's number at each of its tokens, `[N]`."""
    return np.repeat(np.asarray(value_R, np.float64), lengths)


def kl_penalty(logprob_N: ndarray, reference_N: ndarray, by_model_N: ndarray, *, beta: float) -> ndarray:
    """-beta k1 = -beta (logp - log reference) per token, to be added to the reward; 0 on environment tokens.

    In the reward k1 is right: the policy gradient of its sum is that of the sequence's KL(policy || reference),
    future tokens included, which a KL in the loss leaves out.
    """
    return np.where(by_model_N, -beta * (np.asarray(logprob_N, np.float64) - reference_N), 0.0)


def at_last_token(reward_R: ndarray, lengths: Sequence[int], by_model_N: ndarray) -> ndarray:
    """The reward of an answer at the last token the model wrote in it, 0 elsewhere."""
    reward_N = np.zeros(len(by_model_N))
    for reward, tokens in zip(reward_R, documents(lengths), strict=True):
        written = np.flatnonzero(by_model_N[tokens])
        if len(written):
            reward_N[tokens.start + written[-1]] = reward
    return reward_N


def returns(
    reward_N: ndarray, lengths: Sequence[int], by_model_N: ndarray, *, discount: float = 1.0
) -> ndarray:
    """sum_{u >= t} discount^(u - t) reward_u, in steps of the model's own tokens.

    This is GAE with lambda 1 and a value of 0.
    """
    nothing_N = np.zeros(len(reward_N))
    return gae(reward_N, nothing_N, lengths, by_model_N, discount=discount, trace=1.0)[0]


def gae(
    reward_N: ndarray,
    value_N: ndarray,
    lengths: Sequence[int],
    by_model_N: ndarray,
    *,
    discount: float = 1.0,
    trace: float = 0.95,
    bootstrap_R: ndarray | None = None,
) -> tuple[ndarray, ndarray]:
    """Generalised advantage estimation (1506.02438): `(advantage_N, return_N)`, the return being A + V.

    delta_t = r_t + discount V_{t+1} - V_t,  A_t = delta_t + discount trace A_{t+1}. trace 0 gives delta, trace
    1 the discounted return minus V. `bootstrap_R` is the value after the last token, for an answer that was
    cut off; after one that ended it is 0.
    """
    advantage_N, return_N = np.zeros(len(reward_N)), np.zeros(len(reward_N))
    after = np.zeros(len(lengths)) if bootstrap_R is None else np.asarray(bootstrap_R, np.float64)
    for next_value, tokens in zip(after, documents(lengths), strict=True):
        advantage = paid_later = 0.0
        for t in range(tokens.stop - 1, tokens.start - 1, -1):
            if not by_model_N[t]:
                paid_later += reward_N[t]
                continue
            delta = reward_N[t] + paid_later + discount * next_value - value_N[t]
            advantage = delta + discount * trace * advantage
            advantage_N[t], return_N[t] = advantage, advantage + value_N[t]
            next_value, paid_later = value_N[t], 0.0
    return advantage_N, return_N


def whiten(value_N: ndarray, mask_N: ndarray, *, epsilon: float = 1e-8, shift: bool = True) -> ndarray:
    """(x - mean) / sqrt(var + epsilon) over the masked tokens of the whole batch; 0 elsewhere.

    All equal gives exactly 0. `shift` False keeps the mean: rewards whitened so do not change sign.
    """
    kept = np.asarray(value_N, np.float64)[mask_N]
    out_N = np.zeros(len(value_N))
    if len(kept):
        mean = kept[0] if kept.min() == kept.max() else kept.mean()
        out_N[mask_N] = (kept - mean) / np.sqrt(kept.var() + epsilon) + (0.0 if shift else mean)
    return out_N


def step_advantages(
    step_rewards: Sequence[ndarray],
    step_ends: Sequence[ndarray],
    group_R: ndarray,
    lengths: Sequence[int],
    *,
    epsilon: float = 1e-6,
) -> ndarray:
    """GRPO with process rewards (2402.03300): credit per token from the rewards of an answer's steps.

    The rewards of all steps in a group are normalised together; a token's advantage is the sum of those of
    the steps that end at it or later. `step_ends` are indices into the rollout's own tokens. A group with
    fewer than two steps is NaN.
    """
    advantage_N = np.full(sum(lengths), np.nan)
    places = list(documents(lengths))
    for group in np.unique(group_R):
        rows = np.flatnonzero(np.asarray(group_R) == group)
        pool = np.concatenate([np.asarray(step_rewards[row], np.float64) for row in rows.tolist()])
        if len(pool) < 2:
            continue
        same = pool.min() == pool.max()
        mean, scale = (pool[0], 1.0) if same else (pool.mean(), pool.std(ddof=1) + epsilon)
        for row in rows.tolist():
            paid = np.zeros(lengths[row])
            np.add.at(paid, step_ends[row], (np.asarray(step_rewards[row]) - mean) / scale)
            advantage_N[places[row]] = np.cumsum(paid[::-1])[::-1]
    return advantage_N


def adapt_beta(
    beta: float, kl: float, *, target: float = 6.0, steps: int = 1, horizon: int = 10_000
) -> float:
    """The KL coefficient of the next round (Ziegler et al., 1909.08593): up when kl is over target, else down.

    beta (1 + clip(kl / target - 1, -0.2, 0.2) steps / horizon); `steps` is how many answers the round had,
    kl and target are in nats per answer. A fixed coefficient needs no function. Changed: a round of more answers than
    the horizon counts as one horizon, or one of five times as many could turn the sign of beta.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * min(steps / horizon, 1.0))
