"""The policy gradient: one relation of switchable parts, of which every method of the family is a setting.

    loss = sum over tokens  weight_t ( c_t objective_t + beta kl_t - entropy_bonus H_t )  /  count

    objective  reinforce   -A_t log p_t
               clip        -min(r_t A_t, clip(r_t, 1 - clip_low, 1 + clip_high) A_t)
               cispo       -sg[clip(r_t, weight_min, weight_max)] A_t log p_t
    r_t        current / old policy, of the token or of the sequence        ratios.py
               (or current / sampler, where the ratio starts from the sampler)
    c_t        correction of old policy / sampler: 1, truncated, masked     ratios.py
    kl_t       estimate of KL(policy || reference)                          kl.py
    count      tokens or sequences                                          aggregate.py

A_t is the credit `advantages/` gave the token, positive to make it likelier. Columns read from the batch:
advantage; old_logprob, without which the update is strictly on-policy: the old policy is the current one, the
ratio is exactly 1 with the gradient it must have, and no second forward pass was spent; sampler_logprob, for
the correction, the mismatch is measured whenever it is there; reference_logprob, for the KL; weight.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rung.batch import Batch, Loss, TokenScores
from rung.errors import UserError
from rung.methods.aggregate import aggregate
from rung.methods.kl import kl_estimate, kl_loss
from rung.methods.ratios import FARTHEST, importance_ratio, mismatch_weight


def policy_gradient(
    scores: TokenScores,
    batch: Batch,
    *,
    objective: Literal["reinforce", "clip", "cispo"] = "clip",
    ratio: Literal["token", "sequence"] = "token",
    ratio_from: Literal["trainer", "sampler"] = "trainer",
    aggregation: Literal["token", "sequence", "sequence_sum", "fixed"] = "token",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 0.0,
    weight_min: float = 0.0,
    weight_max: float = 5.0,
    max_length: int = 0,
    beta: float = 0.0,
    kl: Literal["k1", "k2", "k3"] = "k3",
    kl_gradient: Literal["reverse", "plain"] = "reverse",
    correction: Literal["none", "tis", "mis"] = "none",
    correction_level: Literal["token", "sequence"] = "token",
    correction_min: float = 0.5,
    correction_max: float = 2.0,
    entropy_bonus: float = 0.0,
) -> Loss:
    """Make tokens of positive advantage likelier and those of negative advantage less likely.

    The correction scales the objective, not the pull of the KL and the entropy: a token masked because the
    sampler misjudged it is still held to the reference.

    objective: `reinforce` is the plain gradient, blind to how old the samples are; `clip` (PPO) stops pushing
        a token that has moved far enough; `cispo` clips the token's weight and keeps its gradient.
    ratio: What is compared with the old policy, each `token` or the geometric mean of a `sequence` (GSPO).
    ratio_from: The log-probs the ratio starts from: the `trainer`'s own, when the round began; or those the
        `sampler` drew with, so that a sampler that disagrees is made up for within the clip (with a correction
        it would be made up for twice).
    aggregation: What counts alike: every `token`; every `sequence`; a `sequence_sum`, which is a sequence's
        whole log-prob; or the same divided by a `fixed` max_length.
    clip_low: How far below 1 the ratio of an unwanted token is still pushed.
    clip_high: How far above 1 the ratio of a wanted token is still pushed.
    dual_clip: Largest ratio with which an unwanted token is pushed down, above 1 (3 is usual); 0 sets none.
    weight_min: Lower bound of cispo's weight, itself a ratio.
    weight_max: Upper bound of cispo's weight, itself a ratio.
    max_length: The constant of the aggregation `fixed`, usually the largest number of tokens of an answer.
    beta: Strength of the pull towards the reference; 0 needs no reference.
    kl: Estimator of the distance to the reference.
    kl_gradient: `reverse` follows the gradient of KL(policy || reference) whichever estimator is shown;
        `plain` differentiates the estimator as it stands, as GRPO's paper does.
    correction: What makes up for a sampler that disagrees with the trainer: truncated (`tis`) or masked
        (`mis`) importance sampling.
    correction_level: Whether the correction is of each token or of the product over the sequence.
    correction_min: Smallest ratio trainer / sampler that `mis` keeps; 0 is usual for sequences.
    correction_max: Largest ratio trainer / sampler, kept by `mis` and cut to by `tis`; 10 is usual for sequences.
    entropy_bonus: Reward for the entropy of each token's distribution, in nats; needs scores with entropy.
    """
    _check(scores, dual_clip, entropy_bonus, ratio_from, correction)
    logprob_M, document_M, documents = scores.logprob_M, scores.document_M, len(batch)
    advantage_M = _column(batch, "advantage", logprob_M)
    old_M = _column(batch, "old_logprob", logprob_M, logprob_M.detach())
    from_M = old_M if ratio_from == "trainer" else _column(batch, "sampler_logprob", logprob_M)
    token_ratio_M = importance_ratio(logprob_M, from_M, document_M, documents, "token")
    ratio_M = token_ratio_M
    if ratio == "sequence":
        ratio_M = importance_ratio(logprob_M, from_M, document_M, documents, "sequence")
    if objective == "reinforce":
        loss_M, below_M, above_M = -advantage_M * logprob_M, None, None
    elif objective == "clip":
        loss_M, below_M, above_M = _clip(ratio_M, advantage_M, clip_low, clip_high, dual_clip)
    else:
        loss_M, below_M, above_M = _cispo(ratio_M, advantage_M, logprob_M, weight_min, weight_max)
    measured = {"clipped_low": below_M, "clipped_high": above_M, "entropy": scores.entropy_M}
    if correction != "none":
        factor_M, cut_M = mismatch_weight(
            old_M,
            _column(batch, "sampler_logprob", logprob_M),
            document_M,
            documents,
            correction=correction,
            level=correction_level,
            low=correction_min,
            high=correction_max,
        )
        loss_M = loss_M * factor_M
        measured["corrected_share"] = cut_M
    if beta:
        reference_M = _column(batch, "reference_logprob", logprob_M)
        loss_M = loss_M + beta * kl_loss(logprob_M, reference_M, token_ratio_M, kl, kl_gradient)
    if entropy_bonus and scores.entropy_M is not None:
        loss_M = loss_M - entropy_bonus * scores.entropy_M
    weight_M = _column(batch, "weight", logprob_M, torch.ones_like(logprob_M))
    total, count, name = aggregate(
        loss_M, weight_M, document_M, documents, aggregation, max_length, batch.left_out
    )
    means, largest = measure(batch, logprob_M, old_M, ratio_M, measured)
    return Loss(total, count, name, means, maxima=largest)


def _clip(
    ratio_M: Tensor, advantage_M: Tensor, low: float, high: float, dual: float
) -> tuple[Tensor, Tensor, Tensor]:
    """PPO's pessimistic surrogate (1707.06347), and where it is flat: pushed down enough, up enough."""
    clipped_M = ratio_M.clamp(1 - low, 1 + high)
    loss_M = -torch.minimum(ratio_M * advantage_M, clipped_M * advantage_M)
    if dual:  # 1912.09729: a huge ratio under a negative advantage would otherwise push without bound
        loss_M = torch.where(advantage_M < 0, torch.minimum(loss_M, -dual * advantage_M), loss_M)
    return loss_M, (advantage_M < 0) & (ratio_M < 1 - low), (advantage_M > 0) & (ratio_M > 1 + high)


def _cispo(
    ratio_M: Tensor, advantage_M: Tensor, logprob_M: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """REINFORCE with a clipped, constant importance weight: every token keeps a gradient."""
    weight_M = ratio_M.detach().clamp(low, high)
    return -weight_M * advantage_M * logprob_M, ratio_M < low, ratio_M > high


def measure(
    batch: Batch, logprob_M: Tensor, old_M: Tensor, ratio_M: Tensor, more: dict[str, Tensor | None]
) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """What the update looks like from outside: means as (sum, count) over tokens, and maxima.

    Against the sampler, always where its log-probs are known: the log-ratio to the old policy, which holds
    the weights that sampled (its size, KL(sampler || trainer) by k1 and k3), and the mean and mean square
    of current / sampler, from which the effective sample size follows.
    """
    with torch.no_grad():
        values = {name: value_M.detach() for name, value_M in more.items() if value_M is not None}
        largest = {"ratio_max": ratio_M.detach()}
        if "sampler_logprob" in batch.columns:
            sampler_M = _column(batch, "sampler_logprob", logprob_M)
            gap_M = old_M.detach() - sampler_M
            weight_M = (logprob_M.detach() - sampler_M).clamp(-FARTHEST, FARTHEST).exp()
            values |= {"sampler_gap": gap_M.abs(), "sampler_kl": -gap_M}
            values |= {"sampler_kl3": gap_M.clamp(-FARTHEST, FARTHEST).exp() - gap_M - 1}
            values |= {"importance_mean": weight_M, "importance_square": weight_M.square()}
            largest["sampler_gap_max"] = gap_M.abs()
        if "reference_logprob" in batch.columns:
            reference_M = _column(batch, "reference_logprob", logprob_M)
            values["reference_kl"] = kl_estimate(logprob_M.detach(), reference_M, "k3")
        tokens = len(logprob_M)
        if not tokens:
            return {}, {}
        means = {name: (float(v_M.sum()), float(tokens)) for name, v_M in values.items()}
        return means, {name: float(v_M.max()) for name, v_M in largest.items()}


def _column(batch: Batch, name: str, like_M: Tensor, default_M: Tensor | None = None) -> Tensor:
    if default_M is not None and name not in batch.columns:
        return default_M
    return batch.column(name).to(like_M.dtype)


def _check(
    scores: TokenScores, dual_clip: float, entropy_bonus: float, ratio_from: str, correction: str
) -> None:
    if ratio_from == "sampler" and correction != "none":
        raise UserError(
            f"The ratio starts from the sampler, and correction {correction} would correct for the sampler once more. "
            "Write one of them: ratio_from trainer, or correction none."
        )
    if dual_clip and dual_clip <= 1:
        raise UserError(
            f"dual_clip is {dual_clip}, and the largest ratio with which a token is pushed down must lie above 1. "
            "Write for example 3, or 0 for none."
        )
    if entropy_bonus and scores.entropy_M is None:
        raise UserError(
            f"entropy_bonus is {entropy_bonus}, and these scores carry no entropy. Let the scorer compute it, or "
            "set entropy_bonus to 0."
        )
