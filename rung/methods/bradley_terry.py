"""Bradley-Terry: a reward whose difference between two answers is the log-odds that the first is preferred."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.batch import Batch, Loss, ScalarScores
from rung.methods.preference import ends, pair_documents, require, wins

MARGIN = "margin"  # a column of the chosen document: by how much its row says that it is better


def bradley_terry(scores: ScalarScores, batch: Batch, *, margin: float = 0.0, centre: float = 0.0) -> Loss:
    """Score the chosen answer above the rejected one.

    s = score of a whole answer given its prompt; w chosen, l rejected; m the margin, of the row or of all

    p(w preferred) = sigmoid(s_w - s_l)          (Bradley & Terry 1952)
    loss = -log sigmoid(s_w - s_l - m) + centre (s_w + s_l)^2, mean over pairs

    Source: Christiano et al., 1706.03741; Ouyang et al., 2203.02155; a margin by how much better the answer is,
    Llama 2, 2307.09288; centring, Eisenstein et al., 2312.09244. Changed: nothing. One pair a prompt is assumed:
    where a prompt has several, 2203.02155 averages within the prompt first.

    The likelihood says nothing of a constant added to all scores of a prompt. `centre` removes that freedom
    softly, which matters where scores of different prompts or models are compared.

    margin: How much better the chosen answer must score before the pair is content, besides its row's `margin`.
    centre: Weight of the squared sum of both scores; 0.01 holds the mean near 0.
    """
    require(margin >= 0, "margin", margin, "and a negative one would content a pair the wrong way round.")
    require(centre >= 0, "centre", centre, "and a negative one would drive the scores apart. Write 0.01.")
    chosen_P, rejected_P = pair_scores(scores, batch)
    gap_P = chosen_P - rejected_P
    margin_P = margin + batch.columns[MARGIN][ends(batch)[0]] if MARGIN in batch.columns else margin
    loss_P = -F.logsigmoid(gap_P - margin_P) + centre * (chosen_P + rejected_P) ** 2
    pairs = float(len(gap_P))
    with torch.no_grad():
        metrics = {
            "chosen_score": (float(chosen_P.sum()), pairs),
            "rejected_score": (float(rejected_P.sum()), pairs),
            "score_gap": (float(gap_P.sum()), pairs),
            "pair_accuracy": (wins(gap_P), pairs),
        }
    return Loss(loss_P.sum(), pairs, "pairs", metrics)


def pair_scores(scores: ScalarScores, batch: Batch) -> tuple[Tensor, Tensor]:
    """The score of the first and of the second answer of each pair."""
    first_P, second_P = pair_documents(batch)
    return scores.score_B[first_P], scores.score_B[second_P]
