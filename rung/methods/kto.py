"""KTO: thumbs up and down, each answer by itself, valued against how far the policy has moved on average."""

from __future__ import annotations

import torch
from torch import Tensor

from rung.batch import Batch, Loss, TokenScores
from rung.methods.preference import Answers, Metrics, answers, require, require_positive, side_metrics


def kto(
    scores: TokenScores,
    batch: Batch,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Loss:
    """Good answers above a reference point, bad ones below it, with less and less to gain far from it.

    s = log policy(answer) - log start(answer), summed over tokens
    z = max(0, mean of s over mismatched answers of the micro-batch), an estimate of KL; no gradient

    good  loss = desirable_weight (1 - sigmoid(beta (s - z)))
    bad   loss = undesirable_weight (1 - sigmoid(beta (z - s))), mean over answers

    Source: Ethayarajh et al., 2402.01306. One convention for beta: it multiplies s and z alike, and z itself
    is in nats. Changed: the mismatched answer to a prompt is fixed by the data (`sources.feedback`) and not
    by the order in a micro-batch, so that its reference log-prob is cached too. z is a mean over the
    micro-batch, so its size matters a little: `couples` says so.

    `batch.pairs` are (judged answer, mismatched answer), `batch.labels` the thumbs.

    beta: As in DPO.
    desirable_weight: Of good answers. With unbalanced data keep the ratio of the two sides, each count times
        its weight, between 1 and 4/3.
    undesirable_weight: Of bad answers.
    """
    require_positive("beta", beta)
    for name, value in (("desirable_weight", desirable_weight), ("undesirable_weight", undesirable_weight)):
        require(value >= 0, name, value, "and a weight is not below 0.")
    judged, mismatched = answers(scores, batch)
    baseline = mismatched.ratio_P.detach().mean().clamp(min=0)
    good_P = torch.tensor(batch.labels, dtype=torch.bool, device=baseline.device)
    sign_P, weight_P = (
        torch.where(good_P, 1.0, -1.0),
        torch.where(good_P, desirable_weight, undesirable_weight),
    )
    loss_P = weight_P * (1 - torch.sigmoid(beta * sign_P * (judged.ratio_P - baseline)))
    couples = "the KL baseline is a mean over the micro-batch"
    return Loss(loss_P.sum(), float(len(loss_P)), "answers", metrics(judged, good_P, baseline), couples)


def metrics(judged: Answers, good_P: Tensor, baseline: Tensor) -> Metrics:
    """`chosen` are the good answers, `rejected` the bad ones, as in the methods of pairs."""
    found: Metrics = {"kto_baseline": (float(baseline) * len(good_P), float(len(good_P)))}
    for name, side_P in (("chosen", good_P), ("rejected", ~good_P)):
        if side_P.any():
            found |= side_metrics(name, judged.only(side_P))
    return found
