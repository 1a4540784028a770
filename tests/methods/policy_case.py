"""Documents given by their trained tokens' numbers, so that a loss can be computed by hand."""

import numpy as np
import torch

from rung.batch import Batch, Example, TokenScores, collate

PROMPT = [7, 8, 9]


def example_of(length: int, columns: dict[str, list[float]]) -> Example:
    """A prompt of three tokens all documents share, then `length` trained ones with these columns."""
    full = {n: np.array([0.0] * len(PROMPT) + list(v), np.float32) for n, v in columns.items()}
    ids = np.array(PROMPT + [10 + t for t in range(length)], np.int32)
    return Example(ids, np.arange(len(ids)) >= len(PROMPT), f"row {length}", full)


def batch_of(rows: list[dict[str, list[float]]], groups: list[int] | None = None) -> Batch:
    return collate([example_of(len(row["advantage"]), row) for row in rows], groups)


def scores_of(batch: Batch, logprob_M: torch.Tensor, entropy_M=None) -> TokenScores:
    """Log-probs in the order of the batch's trained tokens, with the documents they belong to."""
    document_N = torch.repeat_interleave(torch.arange(len(batch)), torch.tensor(batch.lengths))
    return TokenScores(logprob_M, document_N[batch.trained_N], entropy_M)


def case(logprob: list[list[float]], groups=None, entropy=None, **columns: list[list[float]]):
    """`(scores, batch)` with float64 log-probs that want a gradient."""
    rows = [{name: column[i] for name, column in columns.items()} for i in range(len(logprob))]
    batch = batch_of(rows, groups)
    flat = torch.tensor([p for row in logprob for p in row], dtype=torch.float64, requires_grad=True)
    entropy_M = None if entropy is None else torch.tensor(entropy, dtype=torch.float64, requires_grad=True)
    return scores_of(batch, flat, entropy_M), batch


def run(method, scores: TokenScores, batch: Batch, **options):
    """The loss, and the gradient of its sum in the log-probs as a list."""
    loss = method(scores, batch, **options)
    (gradient,) = torch.autograd.grad(loss.sum, scores.logprob_M, retain_graph=True)
    return loss, gradient.tolist()
