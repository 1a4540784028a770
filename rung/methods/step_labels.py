"""Labels at tokens: an outcome head learns one at the end of an answer, a process head one at the end of each step."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rung.batch import Batch, Loss, ScalarScores

LABEL = "label"  # a column, read at the tokens that are marked as trained


def step_labels(scores: ScalarScores, batch: Batch) -> Loss:
    """Say at each marked token how likely it is that all is well so far.

    v = the value at a marked token; y = its label, 0 or 1, or a share between them

    loss = -(y log sigmoid(v) + (1 - y) log sigmoid(-v)), mean over marked tokens

    An outcome head (2110.14168) has one mark a document, its last token; a process head (2305.20050, 2312.08935)
    one at the end of every step. A soft label, the share of completions that came out right, makes sigmoid(v) an
    estimate of the chance to succeed from there; a hard one, whether any did, of whether success is possible.

    Changed: the papers' process heads are two-class softmaxes over special tokens; a sigmoid of one number is the
    same function. The mean is over marks, not over documents, so that a step counts alike in every document.

    With hard labels the reported `label_accuracy` is the share of marks on the right side of one half.
    """
    value_M = scores.value_N[batch.trained_N]
    label_M = batch.columns[LABEL][batch.trained_N].to(value_M)
    loss = F.binary_cross_entropy_with_logits(value_M, label_M, reduction="sum")
    marks = float(len(value_M))
    with torch.no_grad():
        right = float(((value_M > 0) == (label_M > 0.5)).sum())
        metrics = {"label_accuracy": (right, marks), "positive_labels": (float(label_M.sum()), marks)}
    return Loss(loss, marks, "labels", metrics)
