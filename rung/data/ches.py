"""CHES: which preference pairs will make DPO lower the answer it should raise (Razin et al., 2410.08847).

With h_k the last hidden state that predicts token k of an answer, after the final norm, and S the sum over
the answer's tokens, w chosen and l rejected:

    CHES            = <S_w, S_l> - |S_w|^2
    length-normalised = <S_w, S_l> / (L_w L_l) - |S_w|^2 / L_w^2

Pairs with a high score (near or above 0) say nearly the same to the model, so pushing the rejected answer
down takes the chosen one with it. The score ranks pairs of one model; its absolute size means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rung.batch import Batch, prediction_sites


@dataclass(frozen=True)
class Ches:
    raw_P: Tensor
    normalised_P: Tensor


@torch.no_grad()
def ches(states_ND: Tensor, batch: Batch) -> Ches:
    """Both scores of every pair of a batch, in float64: the terms are large and nearly cancel."""
    sites_M, tokens_M = prediction_sites(batch)
    document_N = torch.repeat_interleave(torch.tensor(batch.lengths))
    document_M = document_N[tokens_M.cpu()]
    sums_BD = torch.zeros(len(batch), states_ND.shape[1], dtype=torch.float64)
    sums_BD.index_add_(0, document_M, states_ND[sites_M].cpu().double())
    tokens_B = torch.bincount(document_M, minlength=len(batch)).double()
    pairs_P2 = torch.tensor(batch.pairs, dtype=torch.int64).reshape(-1, 2)
    chosen_PD, rejected_PD = sums_BD[pairs_P2[:, 0]], sums_BD[pairs_P2[:, 1]]
    own_PD, other_PD = (
        side_PD / tokens_B[pairs_P2[:, i], None] for i, side_PD in enumerate((chosen_PD, rejected_PD))
    )
    return Ches(difference(chosen_PD, rejected_PD), difference(own_PD, other_PD))


def difference(chosen_PD: Tensor, rejected_PD: Tensor) -> Tensor:
    """<w, l> - |w|^2 as <w, l - w>, which does not subtract two large numbers."""
    return (chosen_PD * (rejected_PD - chosen_PD)).sum(1)


def keep_lowest(scores: Sequence[float], drop: float) -> list[int]:
    """Places of the pairs left when the share `drop` with the highest scores is taken away, in order."""
    order = np.argsort(np.asarray(scores, dtype=np.float64), kind="stable")
    return sorted(order[: len(order) - round(drop * len(order))].tolist())
