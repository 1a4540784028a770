"""How far a proxy can be pushed before the true reward falls (Gao et al. 2022, arXiv 2210.10760).

    d = sqrt(KL(policy | start)),  best-of-n: KL = log n - (n - 1) / n
    best-of-n   R(d) = d (alpha - beta d)        peak at d = alpha / (2 beta)
    RL          R(d) = d (alpha - beta log d)    peak at d = exp(alpha / beta - 1)

R is the gold reward relative to the start, R(0) = 0. Both forms are linear in alpha and beta. A peak is only
seen if it lies within the data; otherwise it is an extrapolation and is called one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf
from typing import Literal

import numpy as np

from rung.errors import UserError

Form = Literal["best-of-n", "rl"]


@dataclass(frozen=True)
class Overoptimisation:
    form: Form
    alpha: float
    beta: float
    r_squared: float
    peak: float  # the d of the largest gold reward; infinite if the fit never turns
    peak_seen: bool  # the peak lies within the measured d

    def at(self, distance: float) -> float:
        return float(columns(self.form, np.array([distance]))[0] @ [self.alpha, self.beta])


def kl_of_best_of(n: int) -> float:
    """KL of best-of-n to what it samples from, for a continuous proxy; with ties the true KL is smaller."""
    if n < 1:
        raise ValueError("best of fewer than one sample is nothing")
    return float(np.log(n) - (n - 1) / n)


def fit_overoptimisation(kl: Sequence[float], gold: Sequence[float], form: Form) -> Overoptimisation:
    """`gold` is relative to the start: subtract the start's own gold reward before."""
    kls, rewards = np.asarray(kl, float), np.asarray(gold, float)
    if len(kls) != len(rewards) or len(np.unique(kls)) < 4 or np.any(kls < 0):
        raise UserError(
            f"the fit needs at least 4 different distances with KL >= 0, and there are {len(np.unique(kls))}; "
            "measure the gold reward at more of them"
        )
    distance = np.sqrt(kls)
    design = columns(form, distance)
    alpha, beta = (float(v) for v in np.linalg.lstsq(design, rewards, rcond=None)[0])
    missed = rewards - design @ [alpha, beta]
    spread = float(np.sum((rewards - rewards.mean()) ** 2))
    r_squared = 1 - float(missed @ missed) / spread if spread > 0 else 0.0
    peak = peak_of(form, alpha, beta)
    return Overoptimisation(form, alpha, beta, r_squared, peak, bool(peak <= distance.max()))


def columns(form: Form, distance: np.ndarray) -> np.ndarray:
    """R = columns @ (alpha, beta). d log d is 0 at d = 0."""
    bent = distance**2 if form == "best-of-n" else distance * np.log(np.where(distance > 0, distance, 1.0))
    return np.column_stack([distance, -bent])


def peak_of(form: Form, alpha: float, beta: float) -> float:
    if beta <= 0:
        return inf if alpha > 0 or form == "rl" else 0.0
    if form == "best-of-n":
        return max(alpha / (2 * beta), 0.0)
    return exp(min(alpha / beta - 1, 700))
