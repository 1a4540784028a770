"""ReasonMaxxer: learn at the few tokens where the base model was undecided, and stay put elsewhere."""

from __future__ import annotations

import torch

from rung.batch import Batch, Loss, TokenScores
from rung.methods.ratios import FARTHEST


def reason_maxxer(scores: TokenScores, batch: Batch, *, kl: float = 0.2) -> Loss:
    """A contrastive loss at decision tokens of the base model's own answers, an anchor at all others.

    loss = (1/|D|) sum_{t in D} -A_t log p_t + kl mean_{t not in D} KL(base || policy)

    D is the column `decision`: tokens where the base model's entropy was high, 1 to 4 % of all
    (`advantages/tokens.py`, `decision_tokens`). The method is offline: answers are sampled once, from the
    base, scored, and a small adapter is trained on them. The reference column is the base's log-prob.

    Source: 2605.06241. Changed: the KL is estimated on the drawn token by x - 1 - log x with x = policy / base,
    unbiased for samples of the base at temperature 1, with the gradient (x - 1) grad log p, exactly 0 at the
    start; the paper sums over the vocabulary. Its two means have two denominators and a loss has one: the
    column `weight` is 1 on D and |D| / (number of others) elsewhere, over all data, so that dividing by the
    step's |D| leaves both means.

    kl: Strength of the anchor.
    """
    logprob_M = scores.logprob_M
    dtype = logprob_M.dtype
    decision_M = batch.column("decision") > 0
    weight_M = batch.column("weight").to(dtype)
    log_x_M = logprob_M - batch.column("reference_logprob").to(dtype)
    anchor_M = log_x_M.clamp(-FARTHEST, FARTHEST).exp() - 1 - log_x_M
    push_M = -batch.column("advantage").to(dtype) * logprob_M
    total = (weight_M * torch.where(decision_M, push_M, kl * anchor_M)).sum()
    tokens, decisions = len(logprob_M), float(decision_M.sum())
    metrics = {
        "decision_share": (decisions, float(tokens)),
        "base_kl": (float(anchor_M.detach().sum()), float(tokens)),
    }
    return Loss(total, decisions, "decision tokens", metrics)
