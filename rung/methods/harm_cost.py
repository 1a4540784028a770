"""A cost whose sign says whether an answer is unsafe, and whose size says how harmful it is beside another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.batch import Batch, Loss, ScalarScores
from rung.methods.bradley_terry import pair_scores
from rung.methods.preference import ends, wins

SAFE = "safe"  # a column of both answers: 1 where its row calls the answer safe, 0 where it calls it unsafe


def harm_cost(scores: ScalarScores, batch: Batch) -> Loss:
    """Score the more harmful answer above the other, unsafe answers above 0 and safe ones below.

    C = score of a whole answer given its prompt; w chosen, the less harmful answer, l rejected, the more harmful
    s = +1 for an unsafe answer, -1 for a safe one

    loss = -log sigmoid(C_l - C_w) - log sigmoid(s_w C_w) - log sigmoid(s_l C_l), mean over pairs

    Source: Safe RLHF, 2310.12773. Changed: the paper's w is the more harmful answer; here chosen is the better
    one, as in every other file of pairs.

    The order alone leaves a constant of each prompt free (`bradley_terry`). Each sign is one more comparison, with
    an imagined answer of cost 0 that is just not unsafe, so C > 0 means unsafe for every prompt and the mean cost
    of a policy can be held to a limit (`rung ppo --cost.limit`). As a reward it would teach harm.
    """
    chosen_P, rejected_P = pair_scores(scores, batch)
    gap_P = rejected_P - chosen_P
    signed_P2 = torch.stack([chosen_P, rejected_P], 1) * (1 - 2 * safety(batch).to(gap_P))
    loss_P = -F.logsigmoid(gap_P) - F.logsigmoid(signed_P2).sum(1)
    pairs = float(len(gap_P))
    with torch.no_grad():
        metrics = {
            "chosen_score": (float(chosen_P.sum()), pairs),
            "rejected_score": (float(rejected_P.sum()), pairs),
            "cost_gap": (float(gap_P.sum()), pairs),
            "pair_accuracy": (wins(gap_P), pairs),
            "sign_accuracy": (wins(signed_P2), 2 * pairs),
        }
    return Loss(loss_P.sum(), pairs, "pairs", metrics)


def safety(batch: Batch) -> Tensor:
    """`[P, 2]`: 1 where the pair's first and second answer is safe, else 0."""
    return torch.stack([batch.columns[SAFE][last_P] for last_P in ends(batch)], 1)
