"""Hinge: DPO's margin with a support vector machine's loss."""

from __future__ import annotations

from rung.batch import Batch, Loss, TokenScores
from rung.methods.preference import answers, pair_loss, require_positive


def hinge(scores: TokenScores, batch: Batch, *, beta: float = 0.1) -> Loss:
    """Push a pair until its margin reaches 1 / beta nats, then leave it alone.

    loss = max(0, 1 - beta (s_w - s_l)), mean over pairs
    s = log policy(answer) - log start(answer), summed over tokens

    Source: Liu et al., 2309.06657 (RSO), who put the start into SLiC's loss (see `slic`). Changed: nothing.

    beta: The margin aimed at is 1 / beta nats.
    """
    require_positive("beta", beta)
    chosen, rejected = answers(scores, batch)
    margin_P = chosen.ratio_P - rejected.ratio_P
    return pair_loss((1 - beta * margin_P).clamp(min=0), chosen, rejected)
