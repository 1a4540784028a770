"""Success against the length of a task: is it a constant hazard (Toby Ord 2025, arXiv 2505.05115)?

    constant   S = p                                    length does not matter
    half-life  S(t) = exp(-lambda t) = 2^(-t / T50)     each minute is as dangerous as the next
    weibull    S(t) = exp(-(lambda t)^kappa)            kappa < 1: who survived so far fails less
    logistic   S(t) = sigma(a - b log2 t)               METR's horizon

All four by Bernoulli maximum likelihood, compared by AIC and by the likelihood of tasks held out. A half-life
is believed only where it is not beaten; the verdict says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, exp, inf, log, log2, sqrt

import numpy as np

from rung.errors import UserError
from rung.eval.glm import Fit, Link, fit, log_likelihood
from rung.eval.intervals import Estimate, percentiles, replicates

FOLDS = 5
TELLS = 2.0  # AIC: a smaller difference decides nothing


@dataclass(frozen=True)
class Candidate:
    name: str
    parameters: dict[str, float]
    log_likelihood: float
    aic: float
    held_out: float  # mean log-likelihood of an attempt at a task that the fit had not seen
    separated: bool  # lengths sort success from failure without error: the slope is unbounded


@dataclass(frozen=True)
class LengthFits:
    candidates: dict[str, Candidate]
    half_life: Estimate  # T50 of the constant hazard, interval over tasks; infinite if nothing failed
    kappa_p: float  # likelihood ratio test of kappa = 1 (Weibull against half-life)
    verdict: str


def fit_lengths(
    lengths: Sequence[float], successes: Sequence[float], tasks: Sequence[str], seed: int = 0
) -> LengthFits:
    """One entry per scored attempt: the task's length, 1 or 0, the task's key."""
    t, y = np.asarray(lengths, float), np.asarray(successes, float)
    if not len(t) == len(y) == len(tasks) or not np.all(t > 0) or not np.isin(y, (0, 1)).all():
        raise UserError(
            "success against length needs a positive length, a 0 or 1 and a task for every attempt"
        )
    _, task = np.unique(tasks, return_inverse=True)
    units = int(task.max()) + 1
    if units < FOLDS or len(np.unique(t)) < 3:
        raise UserError(
            f"{units} tasks of {len(np.unique(t))} lengths cannot tell how success depends on length; "
            f"give at least {FOLDS} tasks of 3 different lengths"
        )
    fold = np.random.default_rng(seed).permutation(units)[task] % FOLDS
    candidates = {
        name: candidate(name, t, y, fold) for name in ("constant", "half-life", "weibull", "logistic")
    }
    ratio = 2 * (candidates["weibull"].log_likelihood - candidates["half-life"].log_likelihood)
    return LengthFits(
        candidates,
        half_life_over(t, y, task, seed),
        erfc(sqrt(max(ratio, 0.0) / 2)),  # chi-squared with one degree of freedom
        verdict(candidates),
    )


def horizon(half_life: float, success: float) -> float:
    """The length at which the chance has fallen to `success`: T_p = T50 ln p / ln 1/2."""
    return half_life * log(success) / log(0.5)


def half_life_over(
    t: np.ndarray, y: np.ndarray, task: np.ndarray, seed: int = 0, draws: int = 1000
) -> Estimate:
    """T50 with its interval from resampling tasks, each with all of its attempts."""
    rows = [np.flatnonzero(task == unit) for unit in range(int(task.max()) + 1)]

    def drawn(chosen: np.ndarray) -> float:
        index = np.concatenate([rows[unit] for unit in chosen])
        return half_life_of(t[index], y[index])

    low, high = percentiles(replicates(drawn, len(rows), draws, seed))
    return Estimate(half_life_of(t, y), float(low), float(high))


def half_life_of(t: np.ndarray, y: np.ndarray) -> float:
    """The one-parameter fit alone, with its two boundaries: nothing failed, or nothing succeeded."""
    if y.all():
        return inf
    if not y.any():
        return 0.0
    scale = float(np.exp(np.log(t).mean()))
    return scale * log(2) / hazard(t / scale, y)


def hazard(t: np.ndarray, y: np.ndarray) -> float:
    """sum over failures of t / (exp(lambda t) - 1) = sum over successes of t, solved by bisection of log lambda.

    The left side falls from infinity to 0 in lambda, so there is one solution.
    """
    failed, survived = t[y == 0], t[y == 1].sum()
    low, high = -60.0, 60.0
    for _ in range(56):  # 120 / 2^56 is beyond float precision
        middle = (low + high) / 2
        left = np.sum(failed / np.expm1(np.minimum(exp(middle) * failed, 700)))
        low, high = (middle, high) if left > survived else (low, middle)
    return exp((low + high) / 2)


def design(name: str, t: np.ndarray) -> np.ndarray:
    return np.ones((len(t), 1)) if name == "constant" else np.column_stack([np.ones(len(t)), np.log(t)])


def fitted(name: str, t: np.ndarray, y: np.ndarray) -> Fit:
    if name == "half-life":
        rate = hazard(t, y) if 0 < y.sum() < len(y) else (1e-12 if y.all() else 1e12) / t.max()
        beta = np.array([log(rate), 1.0])
        likelihood = log_likelihood(design(name, t), y, np.ones(len(y)), beta, "survival")
        return Fit(beta, np.zeros((2, 2)), likelihood, False)
    return fit(design(name, t), y, "survival" if name == "weibull" else "logit")


def candidate(name: str, t: np.ndarray, y: np.ndarray, fold: np.ndarray) -> Candidate:
    found = fitted(name, t, y)
    link: Link = "survival" if name in ("half-life", "weibull") else "logit"
    held_out = 0.0
    for part in range(FOLDS):
        outside, inside = fold != part, fold == part
        beta = fitted(name, t[outside], y[outside]).coefficients
        held_out += log_likelihood(design(name, t[inside]), y[inside], np.ones(inside.sum()), beta, link)
    count = 1 if name in ("constant", "half-life") else 2
    return Candidate(
        name,
        parameters(name, found.coefficients),
        found.log_likelihood,
        2 * count - 2 * found.log_likelihood,
        held_out / len(y),
        found.separated,
    )


def parameters(name: str, beta: np.ndarray) -> dict[str, float]:
    if name == "constant":
        return {"p": 1 / (1 + exp(-beta[0]))}
    if name == "logistic":
        slope = -float(beta[1]) * log(2)
        crossing = exp(min(-beta[0] / beta[1], 700)) if beta[1] else inf
        return {"slope": slope, "T50": crossing, "log2_T50": log2(crossing) if crossing else -inf}
    kappa = float(beta[1])
    rate = exp(np.clip(beta[0] / kappa, -700, 700)) if kappa else inf
    half = {"lambda": rate, "T50": log(2) ** (1 / kappa) / rate if kappa > 0 else inf}
    return half if name == "half-life" else {**half, "kappa": kappa}


def verdict(candidates: dict[str, Candidate]) -> str:
    """In words, with the differences in AIC."""
    ordered = sorted(candidates.values(), key=lambda c: c.aic)
    best, half = ordered[0], candidates["half-life"]
    rivals = [c.name for c in ordered[1:] if c.aic - best.aic < TELLS]
    if half.aic - best.aic >= TELLS:
        text = f"no constant hazard: {best.name} is better by {half.aic - best.aic:.1f} AIC"
    elif candidates["constant"].aic - best.aic < TELLS:
        return "undecided: these data do not even show that length matters"
    elif rivals:
        others = [name for name in dict.fromkeys([best.name, *rivals]) if name != "half-life"]
        text = f"a constant hazard fits, and so does {' and '.join(others)}"
    else:
        text = "a constant hazard fits best"
    better = max(candidates.values(), key=lambda c: c.held_out)
    return f"{text}; on held-out tasks {better.name} predicts best"
