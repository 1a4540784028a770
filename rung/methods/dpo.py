"""DPO: the policy's own log-ratio to the start is the reward, fitted to preferences by logistic regression."""

from __future__ import annotations

from rung.batch import Batch, Loss, TokenScores
from rung.methods.preference import answers, pair_loss, require, require_positive, smoothed, soft_labels


def dpo(
    scores: TokenScores,
    batch: Batch,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    robust: bool = False,
    soft: bool = False,
) -> Loss:
    """Make the chosen answer gain more on the start than the rejected one.

    s = log policy(answer) - log start(answer), summed over tokens; w chosen, l rejected

    loss  = -log sigmoid(beta (s_w - s_l)), mean over pairs
    cDPO  = (1 - e) loss(w, l) + e loss(l, w)                     label smoothing e
    robust = ((1 - e) loss(w, l) - e loss(l, w)) / (1 - 2 e)      unbiased when a share e of labels is flipped
    soft  = p loss(w, l) + (1 - p) loss(l, w)                     p of the pair, least at beta (s_w - s_l) = logit p

    Source: Rafailov et al., 2305.18290; cDPO is Mitchell's note; robust is Chowdhury et al., 2403.00409.
    Changed: nothing. The gradient pushes the rejected answer down as hard as it pulls the chosen one up, and
    their common tokens go down with it: watch `chosen_change` and `both_fall`, and see `dpop` and `rpo`.

    beta: How dearly the policy pays for leaving the start: the optimum is start * exp(reward / beta).
    label_smoothing: Share of the labels that are thought to be wrong, below one half.
    robust: Correct for the wrong labels in expectation, where smoothing only softens them.
    soft: Each row's `probability` that its chosen answer is the better one is p, a smoothing of its own; the others
        come on top.
    """
    require_positive("beta", beta)
    require(0 <= label_smoothing < 0.5, "label_smoothing", label_smoothing, "a share from 0 to below 0.5.")
    chosen, rejected = answers(scores, batch)
    logit_P = beta * (chosen.ratio_P - rejected.ratio_P)
    loss_P = smoothed(logit_P, label_smoothing, robust)
    if soft:
        right_P = soft_labels(batch)
        loss_P = right_P * loss_P + (1 - right_P) * smoothed(-logit_P, label_smoothing, robust)
    return pair_loss(loss_P, chosen, rejected)
