"""SLiC: calibrate the likelihoods of two answers by a margin, without a reference."""

from __future__ import annotations

from rung.batch import Batch, Loss, TokenScores
from rung.methods.preference import answers, pair_loss, require


def slic(scores: TokenScores, batch: Batch, *, margin: float = 1.0, weight: float = 0.1) -> Loss:
    """The chosen answer likelier than the other by a margin, and likely.

    loss = max(0, margin - log p(y_w) + log p(y_l)) + weight * -log p(y_w) / L_w, mean over pairs

    Source: Zhao et al., 2305.10425 (SLiC-HF); log p is summed over tokens. Changed: the regulariser is the
    chosen answer's likelihood per token; the paper takes the supervised model's best answer, summed.

    margin: Nats by which the chosen answer should be likelier.
    weight: Of the chosen answer's negative log-likelihood per token.
    """
    require(margin >= 0, "margin", margin, "and it is a distance of at least 0 nats.")
    chosen, rejected = answers(scores, batch)
    short_P = (margin - chosen.logprob_P + rejected.logprob_P).clamp(min=0)
    return pair_loss(short_P - weight * chosen.mean_P, chosen, rejected)
