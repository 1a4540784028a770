"""APO: says which way each answer should go, not only which should gain on the other."""

from __future__ import annotations

from typing import Literal

import torch

from rung.batch import Batch, Loss, TokenScores
from rung.methods.preference import answers, pair_loss, require_positive


def apo(
    scores: TokenScores, batch: Batch, *, beta: float = 0.1, anchor: Literal["zero", "down"] = "zero"
) -> Loss:
    """Anchor the preference: the chosen answer up and the other down, or both down and the other further.

    zero  loss = 1 - sigmoid(beta s_w) + sigmoid(beta s_l)
    down  loss = sigmoid(beta s_w) + 1 - sigmoid(beta (s_w - s_l))
    s = log policy(answer) - log start(answer), summed over tokens; mean over pairs

    Source: D'Oosterlinck et al., 2408.06266, equations 7 and 8. Changed: nothing.

    beta: As in DPO.
    anchor: `zero` when the chosen answers are better than what the model writes, `down` when even they
        are worse.
    """
    require_positive("beta", beta)
    chosen, rejected = answers(scores, batch)
    up_P = torch.sigmoid(beta * chosen.ratio_P)
    if anchor == "zero":
        loss_P = 1 - up_P + torch.sigmoid(beta * rejected.ratio_P)
    else:
        loss_P = up_P + 1 - torch.sigmoid(beta * (chosen.ratio_P - rejected.ratio_P))
    return pair_loss(loss_P, chosen, rejected)
