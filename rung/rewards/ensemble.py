"""Several reward models as one: a policy finds the mistakes of one model, and is less likely to find those of all.

Scores of different models have different zeros and scales, so each is first brought to mean 0 and deviation 1 on
held-out answers. With s_k the standardised score of member k of K (Coste et al., 2310.02743):

    mean         mean_k s_k
    worst        min_k s_k
    uncertain    mean_k s_k - weight * var_k s_k           var = mean_k (s_k - mean)^2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from rung.errors import UserError

Combine = Literal["mean", "worst", "uncertain"]
Aggregate = Literal["min", "product", "last", "mean"]


def standardised(scores_KB: np.ndarray, means: Sequence[float], deviations: Sequence[float]) -> np.ndarray:
    """Each member's scores less its mean, over its deviation."""
    return (scores_KB - np.array(means)[:, None]) / np.array(deviations)[:, None]


def combined(scores_KB: np.ndarray, combine: Combine = "mean", weight: float = 1.0) -> np.ndarray:
    """One score a row of the members' scores, `[B]`. `weight` is what a nat squared of disagreement costs."""
    if combine not in get_args(Combine):
        raise UserError(f"combine is {combine!r}; write {', '.join(get_args(Combine))}.")
    if combine == "worst":
        return scores_KB.min(0)
    mean_B = scores_KB.mean(0)
    return mean_B if combine == "mean" else mean_B - weight * scores_KB.var(0)


def aggregated(steps: Sequence[float], aggregate: Aggregate = "min") -> float:
    """A solution's score of the probabilities of its steps (2305.20050: product, 2312.08935: min)."""
    if aggregate not in get_args(Aggregate):
        raise UserError(f"aggregate is {aggregate!r}; write {', '.join(get_args(Aggregate))}.")
    steps_S = np.asarray(steps, float)
    if not len(steps_S):
        raise ValueError("an answer without steps has no score")
    if aggregate == "min":
        return float(steps_S.min())
    if aggregate == "product":
        return float(steps_S.prod())
    return float(steps_S[-1] if aggregate == "last" else steps_S.mean())
