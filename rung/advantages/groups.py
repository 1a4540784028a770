"""One advantage per rollout: its reward against a baseline.

A reward of NaN means that the rollout has no Score. It takes part in no mean and no count, changes nothing
for the others, and its advantage is NaN: leave it out. Within a group a comparison needs two: in a group with
fewer Scores every advantage is NaN. A group whose Scores are all equal has advantage exactly 0, not rounding
noise over a small deviation.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray


def group_mean(reward_R: ndarray, group_R: ndarray) -> ndarray:
    """Reward minus the mean of its group (Dr.GRPO, 2503.20783)."""
    advantage_R = np.full(len(reward_R), np.nan)
    for rows in _scored_groups(reward_R, group_R):
        advantage_R[rows] = _centred(reward_R[rows])
    return advantage_R


def group_normalized(
    reward_R: ndarray, group_R: ndarray, *, epsilon: float = 1e-6, ddof: int = 1, limit: float = np.inf
) -> ndarray:
    """(R - mean) / (std + epsilon) within the group (GRPO, 2402.03300).

    `ddof` 1 is the sample deviation, as in the usual implementations; 0 with `limit` 2.5, to which the result
    is clipped, is ReasonMaxxer's.
    """
    advantage_R = np.full(len(reward_R), np.nan)
    for rows in _scored_groups(reward_R, group_R):
        centred = _centred(reward_R[rows])
        normalized = centred / (np.sqrt(np.square(centred).sum() / (len(rows) - ddof)) + epsilon)
        advantage_R[rows] = np.clip(normalized, -limit, limit)
    return advantage_R


def leave_one_out(reward_R: ndarray, group_R: ndarray) -> ndarray:
    """Reward minus the mean of the others in its group (RLOO, 2402.14740): G/(G-1) times `group_mean`."""
    advantage_R = np.full(len(reward_R), np.nan)
    for rows in _scored_groups(reward_R, group_R):
        advantage_R[rows] = _centred(reward_R[rows]) * (len(rows) / (len(rows) - 1))
    return advantage_R


def group_mean_batch_std(reward_R: ndarray, group_R: ndarray, *, epsilon: float = 1e-6) -> ndarray:
    """`group_mean` over its standard deviation in the whole batch (ScaleRL, 2510.13786).

    One scale for all prompts: those that are nearly always solved are not blown up as by the group's own.
    """
    advantage_R = group_mean(reward_R, group_R)
    credited = ~np.isnan(advantage_R)
    return advantage_R / (np.std(advantage_R[credited]) + epsilon) if credited.any() else advantage_R


def above_greedy(reward_R: ndarray, greedy_R: ndarray) -> ndarray:
    """Reward minus that of the greedy answer to the same prompt (ReMax, 2310.10505). NaN in either is NaN out."""
    return np.asarray(reward_R, np.float64) - greedy_R


def above_batch(reward_R: ndarray) -> ndarray:
    """Reward minus the mean of the batch: plain REINFORCE, one answer per prompt or many."""
    scored = ~np.isnan(reward_R)
    advantage_R = np.full(len(reward_R), np.nan)
    if scored.any():
        advantage_R[scored] = _centred(reward_R[scored])
    return advantage_R


def above_running(
    reward_R: ndarray, baseline: float | None, *, decay: float = 0.9
) -> tuple[ndarray, float | None]:
    """Reward minus a running mean of earlier rounds; returns the advantages and the new mean.

    The mean is of rounds before this one, so it is independent of these rewards and adds no bias. Before the
    first it is None, and the batch mean stands in.
    """
    reward_R = np.asarray(reward_R, np.float64)
    if np.isnan(reward_R).all():
        return np.full(len(reward_R), np.nan), baseline
    mean = float(np.nanmean(reward_R))
    if baseline is None:
        return above_batch(reward_R), mean
    return reward_R - baseline, decay * baseline + (1 - decay) * mean


def _scored_groups(reward_R: ndarray, group_R: ndarray) -> list[ndarray]:
    """Indices of the scored rollouts of each group that has at least two."""
    scored = np.flatnonzero(~np.isnan(reward_R))
    groups = np.asarray(group_R)[scored]
    rows = [scored[groups == group] for group in np.unique(groups)]
    return [members for members in rows if len(members) > 1]


def _centred(reward: ndarray) -> ndarray:
    """Minus the mean; exactly 0 where all are equal, which the rounded mean would not give."""
    return np.zeros(len(reward)) if reward.min() == reward.max() else reward - reward.mean()
