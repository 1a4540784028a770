"""RPO: DPO and supervised learning of the chosen answer in one loss."""

from __future__ import annotations

from dataclasses import replace

from rung.batch import Batch, Loss, TokenScores
from rung.methods.dpo import dpo
from rung.methods.preference import answers, require


def rpo(
    scores: TokenScores, batch: Batch, *, beta: float = 0.1, alpha: float = 1.0, label_smoothing: float = 0.0
) -> Loss:
    """DPO with the chosen answer anchored by its own likelihood.

    loss = dpo + alpha * -log policy(y_w) / L_w, mean over pairs

    Source: Pang et al., 2404.19733 (iterative RPO). Changed: alpha weighs the likelihood where the paper weighs
    DPO; at the paper's 1 they are the same. L_w counts the answer's tokens.

    beta: As in DPO.
    alpha: Weight of the chosen answer's negative log-likelihood per token; 0 is DPO.
    label_smoothing: As in DPO.
    """
    require(alpha >= 0, "alpha", alpha, "and below 0 it would unlearn the chosen answer; write 1.")
    loss = dpo(scores, batch, beta=beta, label_smoothing=label_smoothing)
    chosen, _ = answers(scores, batch)
    return replace(loss, sum=loss.sum - alpha * chosen.mean_P.sum())
