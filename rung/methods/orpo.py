"""ORPO: supervised learning of the chosen answer with a penalty on the odds of the other; no reference."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.batch import Batch, Loss, TokenScores
from rung.methods.preference import answers, pair_loss, require

CERTAIN = -1e-6  # the largest log-prob whose odds are formed; at 0 they are infinite


def orpo(scores: TokenScores, batch: Batch, *, weight: float = 0.1) -> Loss:
    """Learn the chosen answer and raise its odds over the other's, in one stage from a base model.

    loss = -log p_w - weight * log sigmoid(log odds(p_w) - log odds(p_l)), mean over pairs
    log p = log-prob per token of an answer, odds(p) = p / (1 - p)

    Source: Hong et al., 2403.07691, where weight is lambda. Changed: the likelihood is a mean over each answer
    and then over pairs, so that pairs count alike in both terms and micro-batches do not matter.

    weight: Of the odds ratio against the likelihood.
    """
    require(weight >= 0, "weight", weight, "and below 0 it would prefer the rejected answer; write 0.1.")
    chosen, rejected = answers(scores, batch)
    ratio_P = log_odds(chosen.mean_P) - log_odds(rejected.mean_P)
    return pair_loss(-chosen.mean_P - weight * F.logsigmoid(ratio_P), chosen, rejected)


def log_odds(logprob_P: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p, exact at both ends."""
    logprob_P = logprob_P.clamp(max=CERTAIN)
    # Each branch gets an argument it is exact for, since `where` sends gradients through both.
    near_P = torch.log(-torch.expm1(logprob_P.clamp(min=-math.log(2))))
    far_P = torch.log1p(-torch.exp(logprob_P.clamp(max=-math.log(2))))
    return logprob_P - torch.where(logprob_P > -math.log(2), near_P, far_P)
