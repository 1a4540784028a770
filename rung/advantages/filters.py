"""What should not train: groups without a signal, answers that were cut off."""

from __future__ import annotations

import numpy as np
from numpy import ndarray


def carries_signal(reward_R: ndarray, group_R: ndarray) -> ndarray:
    """Whether the rollout's group has two different rewards among its Scores, `[R]` (DAPO, 2503.14476).

    Dynamic sampling keeps such groups only and draws more until the batch is full. Give it the reward the
    filter should look at: DAPO's is the accuracy alone, before any punishment for length.
    """
    signal_R = np.zeros(len(reward_R), bool)
    for group in np.unique(group_R):
        rows = np.asarray(group_R) == group
        scores = reward_R[rows & ~np.isnan(reward_R)]
        signal_R[rows] = len(scores) > 1 and scores.min() != scores.max()
    return signal_R


def overlong_filter(truncated_R: ndarray) -> ndarray:
    """A weight per rollout: 0 for one that ran into its limit, whose reward says nothing of its reasoning."""
    return np.where(truncated_R, 0.0, 1.0)
