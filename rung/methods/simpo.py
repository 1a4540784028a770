"""SimPO: the log-prob per token is the reward; no reference model, a target margin instead."""

from __future__ import annotations

import torch.nn.functional as F

from rung.batch import Batch, Loss, TokenScores
from rung.methods.preference import answers, pair_loss, require_positive


def simpo(scores: TokenScores, batch: Batch, *, beta: float = 2.0, gamma: float = 1.0) -> Loss:
    """Make the chosen answer likelier per token than the other, by a margin.

    loss = -log sigmoid(beta (log p(y_w) / L_w - log p(y_l) / L_l) - gamma), mean over pairs

    Source: Meng et al., 2405.14734. Changed: nothing. The average over tokens is sampling's own measure and
    takes away the reward of length; nothing holds the policy to its start but the learning rate.

    beta: Scale of the reward; the paper uses 2 to 10.
    gamma: Margin in units of the reward; the paper uses 0.3 to 0.5 of beta.
    """
    require_positive("beta", beta)
    chosen, rejected = answers(scores, batch)
    return pair_loss(-F.logsigmoid(beta * (chosen.mean_P - rejected.mean_P) - gamma), chosen, rejected)
