"""What every preference method reads of a batch and reports: two answers to a prompt, and how far they moved.

Suffix besides the legend of `rung/batch.py`: P, the pairs of a micro-batch. Convention of all files that use
this: a log-ratio is log policy - log start of a whole answer, summed over its tokens, and beta is never in
it. So `margin` is chosen minus rejected log-ratio in nats, whatever the method, and methods can be compared.

Diagnostics are always on, since a falling loss hides the common failure: the margin grows because the
rejected answer falls faster than the chosen one (likelihood displacement).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.batch import Batch, Loss, TokenScores
from rung.errors import UserError

REFERENCE = "reference_logprob"
PROBABILITY = "probability"  # a column of the chosen document: how sure its row is that it is the better one


@dataclass(frozen=True)
class Answers:
    """One side of every pair. The gradient flows through both log-probs and log-ratios."""

    logprob_P: Tensor  # of the whole answer
    tokens_P: Tensor
    log_ratio_P: Tensor | None  # None where the batch does not know the start's log-probs

    @property
    def mean_P(self) -> Tensor:
        """Log-prob per token."""
        return self.logprob_P / self.tokens_P

    @property
    def ratio_P(self) -> Tensor:
        """The log-ratio, for methods that cannot do without."""
        if self.log_ratio_P is None:
            raise KeyError(f"this batch has no column {REFERENCE!r}, which the method reads")
        return self.log_ratio_P

    def only(self, these_P: Tensor) -> Answers:
        ratio_P = None if self.log_ratio_P is None else self.log_ratio_P[these_P]
        return Answers(self.logprob_P[these_P], self.tokens_P[these_P], ratio_P)


def answers(scores: TokenScores, batch: Batch) -> tuple[Answers, Answers]:
    """The first and the second answer of each pair."""
    zeros_B = scores.logprob_M.new_zeros(len(batch))
    tokens_B = zeros_B.index_add(0, scores.document_M, torch.ones_like(scores.logprob_M)).clamp(min=1)
    logprob_B = zeros_B.index_add(0, scores.document_M, scores.logprob_M)
    ratio_B = None
    if REFERENCE in batch.columns:
        # Token by token before the sum: where the policy is still the start, every difference is exactly 0.
        ratio_B = zeros_B.index_add(0, scores.document_M, scores.logprob_M - batch.column(REFERENCE))
    first, second = (
        Answers(logprob_B[side_P], tokens_B[side_P], None if ratio_B is None else ratio_B[side_P])
        for side_P in pair_documents(batch)
    )
    return first, second


def pair_documents(batch: Batch) -> tuple[Tensor, Tensor]:
    """The documents that are the first and the second answer of each pair."""
    pairs_P2 = torch.tensor(batch.pairs, dtype=torch.int64, device=batch.token_ids_N.device).reshape(-1, 2)
    return pairs_P2[:, 0], pairs_P2[:, 1]


def ends(batch: Batch) -> tuple[Tensor, Tensor]:
    """Index into N of the last token of both answers of each pair."""
    last_B = torch.tensor(batch.lengths, device=batch.token_ids_N.device).cumsum(0) - 1
    first_P, second_P = pair_documents(batch)
    return last_B[first_P], last_B[second_P]


def soft_labels(batch: Batch) -> Tensor:
    """`[P]`: the probability, as each pair's row gives it, that its first answer is the better one."""
    if PROBABILITY not in batch.columns:
        raise KeyError(f"this batch has no column {PROBABILITY!r}, which soft labels are read from")
    return batch.columns[PROBABILITY][ends(batch)[0]]


def pair_loss(loss_P: Tensor, chosen: Answers, rejected: Answers) -> Loss:
    """The mean over pairs, with the diagnostics."""
    return Loss(loss_P.sum(), float(len(loss_P)), "pairs", diagnostics(chosen, rejected))


Metrics = dict[str, tuple[float, float]]


@torch.no_grad()
def diagnostics(chosen: Answers, rejected: Answers) -> Metrics:
    pairs = float(len(chosen.tokens_P))
    metrics = side_metrics("chosen", chosen) | side_metrics("rejected", rejected)
    metrics["length_gap"] = (float((chosen.tokens_P - rejected.tokens_P).sum()), pairs)
    if chosen.log_ratio_P is None or rejected.log_ratio_P is None:
        return metrics | {"pair_accuracy": (wins(chosen.mean_P - rejected.mean_P), pairs)}
    margin_P = chosen.log_ratio_P - rejected.log_ratio_P
    fell_P = (chosen.log_ratio_P < 0) & (rejected.log_ratio_P < 0)
    return metrics | {
        "margin": (float(margin_P.sum()), pairs),
        "pair_accuracy": (wins(margin_P), pairs),
        "both_fall": (float(fell_P.sum()), pairs),
    }


@torch.no_grad()
def side_metrics(name: str, side: Answers) -> Metrics:
    """Log-prob per token of one side, now and against the start."""
    tokens = float(side.tokens_P.sum())
    metrics = {f"{name}_logprob": (float(side.logprob_P.sum()), tokens)}
    if side.log_ratio_P is not None:
        metrics[f"{name}_change"] = (float(side.log_ratio_P.sum()), tokens)
    return metrics


def wins(margin_P: Tensor) -> float:
    """Pairs ordered rightly; a tie is half a win, so a policy that has not moved stands at one half."""
    return float((margin_P > 0).sum()) + 0.5 * float((margin_P == 0).sum())


def smoothed(logit_P: Tensor, label_smoothing: float, robust: bool) -> Tensor:
    """-log sigmoid of the logit, when a share of the labels may be the wrong way round."""
    right_P, wrong_P = -F.logsigmoid(logit_P), -F.logsigmoid(-logit_P)
    if robust:
        return ((1 - label_smoothing) * right_P - label_smoothing * wrong_P) / (1 - 2 * label_smoothing)
    return (1 - label_smoothing) * right_P + label_smoothing * wrong_P


def require(allowed: bool, name: str, value: object, remedy: str) -> None:
    if not allowed:
        raise UserError(f"--method.{name.replace('_', '-')} is {value}, {remedy}")


def require_positive(name: str, value: float) -> None:
    require(value > 0, name, value, "and it must be above 0: with 0 no answer is preferred.")
