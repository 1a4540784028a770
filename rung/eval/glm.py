"""Binomial regression: P(success) = link(x . beta), by maximum likelihood. The one fit behind ratings and lengths.

    logit     p = 1 / (1 + exp(-eta))          Bradley-Terry, length control, success against log-length
    survival  p = exp(-exp(eta))               constant hazard and Weibull: eta = a + b log t

Both log-likelihoods are concave in beta, so Fisher scoring with halved steps finds the one maximum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Link = Literal["logit", "survival"]
ENOUGH = 1e-14  # gain in log-likelihood per observation below which the maximum is reached


@dataclass(frozen=True)
class Fit:
    coefficients: np.ndarray
    covariance: np.ndarray
    log_likelihood: float
    separated: bool  # the data are sorted without error: a coefficient wants to be infinite


def probabilities(eta: np.ndarray, link: Link) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(log p, log (1 - p), dp / d eta)`, each without cancellation."""
    if link == "logit":
        log_p, log_q = -np.logaddexp(0, -eta), -np.logaddexp(0, eta)
        return log_p, log_q, np.exp(log_p + log_q)
    hazard = np.exp(np.clip(eta, -700, 6))
    return -hazard, np.log(-np.expm1(-hazard)), -hazard * np.exp(-hazard)


def log_likelihood(design: np.ndarray, success: np.ndarray, weight: np.ndarray, beta, link: Link) -> float:
    log_p, log_q, _ = probabilities(design @ beta, link)
    return float(np.sum(weight * (success * log_p + (1 - success) * log_q)))


def fit(
    design: np.ndarray,
    success: np.ndarray,
    link: Link = "logit",
    weight: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
) -> Fit:
    """`success` is in [0, 1] (a tie is 0.5). With `clusters` the covariance is the cluster-robust sandwich."""
    design, success = np.asarray(design, float), np.asarray(success, float)
    weight = np.ones(len(success)) if weight is None else np.asarray(weight, float)
    beta = np.zeros(design.shape[1])
    best = log_likelihood(design, success, weight, beta, link)
    for _ in range(200):
        scores, information = score_and_information(design, success, weight, beta, link)
        step, size = np.linalg.lstsq(information, scores.sum(0), rcond=1e-14)[0], 1.0
        while (
            new := log_likelihood(design, success, weight, beta + size * step, link)
        ) < best and size > 1e-9:
            size /= 2
        if not new > best + ENOUGH * len(success):
            break
        beta, best = beta + size * step, new
    scores, information = score_and_information(design, success, weight, beta, link)
    inverse = np.linalg.pinv(information)
    if clusters is not None:
        _, cluster = np.unique(clusters, return_inverse=True)
        summed = np.zeros((cluster.max() + 1, design.shape[1]))
        np.add.at(summed, cluster, scores)
        inverse = inverse @ (summed.T @ summed) @ inverse * len(summed) / max(len(summed) - 1, 1)
    return Fit(beta, inverse, best, separated(design, weight, information))


def score_and_information(design, success, weight, beta, link: Link) -> tuple[np.ndarray, np.ndarray]:
    """Each row's gradient, and the expected information X' diag(w p'^2 / (p (1-p))) X."""
    log_p, log_q, slope = probabilities(design @ beta, link)
    variance = np.exp(log_p + log_q) + 1e-300
    residual = success * np.exp(-np.maximum(log_p, -600)) - (1 - success) * np.exp(-np.maximum(log_q, -600))
    scores = design * (weight * residual * slope)[:, None]
    return scores, design.T @ (design * (weight * slope**2 / variance)[:, None])


def separated(design: np.ndarray, weight: np.ndarray, information: np.ndarray) -> bool:
    """Along some direction the data carry no information any more: every p there has gone to 0 or 1."""
    most = design.T @ (design * weight[:, None])
    values, vectors = np.linalg.eigh(most)
    kept = values > values.max() * 1e-12
    scaled = vectors[:, kept] / np.sqrt(values[kept])
    return bool(np.linalg.eigvalsh(scaled.T @ information @ scaled).min() < 1e-7)
