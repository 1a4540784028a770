"""DPOP (Smaug): DPO that pays for every nat the chosen answer falls below the start."""

from __future__ import annotations

import torch.nn.functional as F

from rung.batch import Batch, Loss, TokenScores
from rung.methods.preference import answers, pair_loss, require, require_positive


def dpop(scores: TokenScores, batch: Batch, *, beta: float = 0.3, penalty: float = 50.0) -> Loss:
    """DPO in which a chosen answer below the start spoils the margin.

    loss = -log sigmoid(beta (s_w - s_l - penalty max(0, -s_w))), mean over pairs
    s = log policy(answer) - log start(answer), summed over tokens

    Source: Pal et al., 2402.13228, where penalty is lambda and 5, 50 and 500 do alike. Changed: nothing.
    For pairs that differ in few tokens, where DPO lowers both answers. Penalty 0 is DPO.

    beta: As in DPO.
    penalty: Nats of margin that one nat of fall of the chosen answer costs.
    """
    require_positive("beta", beta)
    require(penalty >= 0, "penalty", penalty, "and below 0 it would reward the fall; write 50.")
    chosen, rejected = answers(scores, batch)
    fall_P = (-chosen.ratio_P).clamp(min=0)
    margin_P = chosen.ratio_P - rejected.ratio_P - penalty * fall_P
    return pair_loss(-F.logsigmoid(beta * margin_P), chosen, rejected)
