"""Pairs given by the log-probs of their answers, so that a loss can be computed by hand."""

from collections.abc import Sequence

import numpy as np
import torch

from rung.batch import Batch, Example, Pair, TokenScores, collate, collate_pairs, prediction_sites

PROMPT = [7, 8, 9]
Rows = Sequence[Sequence[float]]


def answer(reference: Sequence[float], first_token: int) -> Example:
    ids = np.array(PROMPT + [first_token + t for t in range(len(reference))], np.int32)
    column = {"reference_logprob": np.array([0.0] * len(PROMPT) + list(reference), np.float32)}
    return Example(ids, np.arange(len(ids)) >= len(PROMPT), f"row {first_token}", column)


def pairs_of(chosen: Rows, rejected: Rows) -> list[Pair]:
    """Pairs by the start's log-probs of their answers; all have one prompt."""
    both = enumerate(zip(chosen, rejected, strict=True))
    return [Pair(answer(w, 20 + 40 * i), answer(other, 40 + 40 * i)) for i, (w, other) in both]


def apart(pairs: Sequence[Pair], labels: Sequence[bool] = ()) -> Batch:
    """The same pairs with no prompt shared: every document alone."""
    batch = collate([one for pair in pairs for one in (pair.chosen, pair.rejected)])
    documents = range(0, len(batch), 2)
    return Batch(
        batch.token_ids_N, batch.positions_N, batch.trained_N, batch.lengths, batch.origins,
        pairs=tuple((i, i + 1) for i in documents), labels=tuple(labels), columns=batch.columns,
    )  # fmt: skip


def scores_of(batch: Batch, logprob_M: torch.Tensor) -> TokenScores:
    document_N = torch.repeat_interleave(torch.arange(len(batch)), torch.tensor(batch.lengths))
    return TokenScores(logprob_M, document_N[prediction_sites(batch)[1]])


def case(chosen, rejected, start_chosen=None, start_rejected=None, labels=(), layout=collate_pairs):
    """`(scores, batch)` with float64 log-probs that want a gradient; the start is 0 everywhere by default."""
    zero = [[[0.0] * len(row) for row in rows] for rows in (chosen, rejected)]
    start_chosen, start_rejected = start_chosen or zero[0], start_rejected or zero[1]
    batch = layout(pairs_of(start_chosen, start_rejected), labels)
    flat = [p for both in zip(chosen, rejected, strict=True) for row in both for p in row]
    return scores_of(batch, torch.tensor(flat, dtype=torch.float64, requires_grad=True)), batch


def gradient_of(method, scores, batch, **options) -> list[float]:
    (gradient,) = torch.autograd.grad(method(scores, batch, **options).sum, scores.logprob_M)
    return gradient.tolist()


def mean_of(method, scores, batch, **options) -> float:
    loss = method(scores, batch, **options)
    return loss.sum.item() / loss.count
