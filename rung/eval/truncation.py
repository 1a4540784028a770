"""What simple self-distillation converges to: the model's own distribution, tempered and cut (2604.01193).

    q = p^(1/T) on the kept set S, normalised;  S: top-k, then the smallest set with mass top-p, both after tempering

Fitted by maximum likelihood without an error of its own, each context's distribution becomes q. So with T > 1 a fork
(several good tokens) keeps its entropy or gains some, a lock (one good token) stays one, and the tail goes from both.
The loss of any p on samples of q says why, as an identity (1/T-Renyi entropy, Z the normaliser of p^(1/T) on S):

    -sum q log p = -log p(S) + (1 - T) H_{1/T}(p|S) + T KL(q || p_T|S) + T H(q)
"""

from __future__ import annotations

import numpy as np


def kept(probabilities: np.ndarray, temperature: float, top_k: int = 0, top_p: float = 1.0) -> np.ndarray:
    """The set S, bool `[V]`, cut in the order of `Sampling`: temperature, top-k, top-p."""
    tempered = np.asarray(probabilities, float) ** (1 / temperature)
    order = np.argsort(-tempered, kind="stable")
    order = order[:top_k] if top_k else order
    mass = np.cumsum(tempered[order] / tempered[order].sum())
    found = np.zeros(len(tempered), bool)
    found[order[: int(np.searchsorted(mass, top_p - 1e-12)) + 1]] = True
    return found


def distilled(
    probabilities: np.ndarray, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> np.ndarray:
    """q, float64 `[V]`: what the answers are drawn from and what the model becomes."""
    there = kept(probabilities, temperature, top_k, top_p)
    q = np.where(there, np.asarray(probabilities, float) ** (1 / temperature), 0.0)
    return q / q.sum()


def entropy(probabilities: np.ndarray) -> float:
    """In nats."""
    p = probabilities[probabilities > 0]
    return float(-(p * np.log(p)).sum())
