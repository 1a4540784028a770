"""Negative log-likelihood: numbers by hand, the same whatever the micro-batches, router terms declared."""

import itertools
import math

import numpy as np
import pytest
import torch

from rung.batch import Batch, Example, TokenScores, collate
from rung.methods.nll import nll

# Documents with 3, 1, 0 and 2 trained tokens, of probability 1/2, 1/4, 1/8 | 1/2 | | 1/16, 1/4.
HALVINGS = [[1, 2, 3], [1], [], [4, 2]]


def batch_of(counts) -> Batch:
    rows = [Example(np.zeros(n + 2, np.int32), np.arange(n + 2) >= 2, "row") for n in counts]
    return collate(rows)


def scores_of(halvings, auxiliary=None) -> TokenScores:
    """`n` stands for a token of probability 2 ** -n."""
    logprob = torch.tensor([-n * math.log(2) for row in halvings for n in row], requires_grad=True)
    document = torch.tensor([i for i, row in enumerate(halvings) for _ in row], dtype=torch.int64)
    return TokenScores(logprob, document, auxiliary=auxiliary or {})


def of(halvings, auxiliary=None, **options):
    return nll(scores_of(halvings, auxiliary), batch_of([len(row) for row in halvings]), **options)


def test_token_mean_by_hand():
    """Halvings 1 + 2 + 3 + 1 + 4 + 2 = 13 over 6 tokens."""
    loss = of(HALVINGS)
    assert loss.sum.item() == pytest.approx(13 * math.log(2))
    assert (loss.count, loss.count_name, loss.couples) == (6, "tokens", "")


def test_sequence_mean_by_hand():
    """Means 2, 1 and 3 of three documents; the one without a trained token counts for nothing."""
    loss = of(HALVINGS, normalize="sequence")
    assert loss.sum.item() == pytest.approx(6 * math.log(2))
    assert (loss.count, loss.count_name, loss.couples) == (3, "sequences", "")


@pytest.mark.parametrize(
    ("normalize", "weights"),
    [("token", [1, 1, 1, 1, 1, 1]), ("sequence", [1 / 3, 1 / 3, 1 / 3, 1, 1 / 2, 1 / 2])],
)
def test_descending_raises_every_trained_token_by_its_weight(normalize, weights):
    scores = scores_of(HALVINGS)
    nll(scores, batch_of([3, 1, 0, 2]), normalize=normalize).sum.backward()
    assert (-scores.logprob_M.grad).tolist() == pytest.approx(weights)


@pytest.mark.parametrize("normalize", ["token", "sequence"])
@pytest.mark.parametrize("cuts", [[1], [2], [1, 2, 3], [3]])
def test_micro_batches_add_up_to_the_whole(normalize, cuts):
    whole = of(HALVINGS, normalize=normalize)
    edges = [0, *cuts, len(HALVINGS)]
    parts = [of(HALVINGS[a:b], normalize=normalize) for a, b in itertools.pairwise(edges)]
    assert sum(p.sum.item() for p in parts) == pytest.approx(whole.sum.item())
    assert sum(p.count for p in parts) == whole.count


def test_equal_lengths_make_both_means_one():
    rows = [[1, 2], [5, 3]]
    token, sequence = of(rows), of(rows, normalize="sequence")
    assert token.sum.item() / token.count == pytest.approx(sequence.sum.item() / sequence.count)


@pytest.mark.parametrize("normalize", ["token", "sequence"])
def test_nothing_trained_adds_zero_to_sum_and_count(normalize):
    loss = of([[], []], normalize=normalize)
    assert (loss.sum.item(), loss.count) == (0, 0)


@pytest.mark.parametrize(("normalize", "mean"), [("token", 13 / 6), ("sequence", 2)])
def test_router_terms_come_out_as_means_after_the_one_division(normalize, mean):
    terms = {"balance": torch.tensor(2.5, requires_grad=True), "z": torch.tensor(8.0, requires_grad=True)}
    loss = of(HALVINGS, terms, normalize=normalize, balance=0.1, router_z=0.01)
    assert (loss.sum / loss.count).item() == pytest.approx(mean * math.log(2) + 0.1 * 2.5 + 0.01 * 8)
    (loss.sum / loss.count).backward()
    assert terms["balance"].grad.item() == pytest.approx(0.1)
    assert terms["z"].grad.item() == pytest.approx(0.01)
    assert loss.couples
    logged = {name: total / count for name, (total, count) in loss.metrics.items()}
    assert logged == pytest.approx({"router_balance": 2.5, "router_z": 8})


def test_router_terms_without_coefficients_are_logged_and_not_trained():
    terms = {"balance": torch.tensor(2.5, requires_grad=True)}
    loss = of(HALVINGS, terms)
    assert loss.sum.item() == pytest.approx(13 * math.log(2))
    assert loss.metrics == {"router_balance": (15, 6)}
    assert loss.couples == ""


def test_a_model_without_experts_has_no_router_metrics():
    assert of(HALVINGS, balance=0.1).metrics == {}
    assert of(HALVINGS, balance=0.1).couples == ""
