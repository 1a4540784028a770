"""Bradley-Terry and label losses: hand-derived numbers, TRL's loss, finite differences, layout."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rung.batch import Example, Pair, ScalarScores, collate, collate_pairs
from rung.errors import UserError
from rung.methods.bradley_terry import MARGIN, bradley_terry, ends, pair_scores
from rung.methods.step_labels import LABEL, step_labels

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/trl_reward.json").read_text())


def example(ids, margin=None, trained_from=2):
    columns = {} if margin is None else {MARGIN: np.full(len(ids), margin, np.float32)}
    return Example(np.array(ids, np.int32), np.arange(len(ids)) >= trained_from, str(ids), columns)


def pairs(count, margins=None):
    margins = margins or [None] * count
    return [
        Pair(example([1, 2, 3 + i, 4], m), example([1, 2, 50 + i], m))
        for i, m in zip(range(count), margins, strict=True)
    ]


def scored(chosen, rejected, margins=None, layout=collate_pairs):
    """Scores at the last tokens, and something else everywhere else."""
    batch = layout(pairs(len(chosen), margins))
    value_N = torch.full((len(batch.token_ids_N),), 77.0, dtype=torch.float64)
    for places, values in zip(ends(batch), (chosen, rejected), strict=True):
        value_N[places] = torch.tensor(values, dtype=torch.float64)
    value_N.requires_grad_()
    last_B = torch.tensor(batch.lengths).cumsum(0) - 1
    return value_N, ScalarScores(value_N, value_N[last_B]), batch


def test_by_hand():
    _, scores, batch = scored([2.0, 0.0, 1.0], [1.0, 0.0, 4.0])
    loss = bradley_terry(scores, batch)
    expected = math.log1p(math.exp(-1)) + math.log(2) + math.log1p(math.exp(3))
    assert (loss.sum.item(), loss.count, loss.count_name) == (pytest.approx(expected), 3, "pairs")
    assert loss.metrics["pair_accuracy"] == (1.5, 3)
    assert loss.metrics["score_gap"] == (pytest.approx(-2), 3)
    assert loss.metrics["chosen_score"] == (3, 3) and loss.metrics["rejected_score"] == (5, 3)


def test_a_margin_of_all_and_of_rows_add_up_and_centring_pays_for_the_sum():
    _, scores, batch = scored([2.0, 1.0], [1.0, 1.0], margins=[0.5, 2.0])
    loss = bradley_terry(scores, batch, margin=1.0, centre=0.1)
    expected = math.log1p(math.exp(0.5)) + math.log1p(math.exp(3.0)) + 0.1 * 9 + 0.1 * 4
    assert loss.sum.item() == pytest.approx(expected)


@pytest.mark.parametrize("name", GOLDEN["losses"])
def test_trl(name):
    margins = GOLDEN["margin"] if "margin" in name else None
    centre = {"centred": 0.01, "margin, centred": 0.3}.get(name, 0.0)
    value_N, scores, batch = scored(GOLDEN["chosen"], GOLDEN["rejected"], margins)
    loss = bradley_terry(scores, batch, centre=centre)
    mean = loss.sum / loss.count
    assert mean.item() == pytest.approx(GOLDEN["losses"][name]["loss"], rel=1e-9)
    (gradient_N,) = torch.autograd.grad(mean, value_N)
    found = [g for places in ends(batch) for g in gradient_N[places].tolist()]
    assert found == pytest.approx(GOLDEN["losses"][name]["gradient"], rel=1e-9)
    gradient_N[torch.cat(ends(batch))] = 0
    assert not gradient_N.any()  # no other token has a say


def test_gradient_is_that_of_finite_differences():
    value_N, _, batch = scored([0.3, -1.0], [0.9, 0.2], margins=[0.1, 0.4])
    last_B = torch.tensor(batch.lengths).cumsum(0) - 1

    def loss(values):
        return bradley_terry(ScalarScores(values, values[last_B]), batch, margin=0.2, centre=0.05).sum

    assert torch.autograd.gradcheck(loss, value_N.detach().requires_grad_())


def test_equal_answers_give_ln_2_and_cancel():
    """The same document on both sides: whatever its score, the gradient on it is zero."""
    twin = Pair(example([1, 2, 3]), example([1, 2, 3]))
    batch = collate_pairs([twin])
    score = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    score_B = score.expand(len(batch))
    loss = bradley_terry(ScalarScores(score.expand(len(batch.token_ids_N)), score_B), batch)
    loss.sum.backward()
    assert loss.sum.item() == pytest.approx(math.log(2)) and score.grad.item() == 0


def test_a_constant_added_to_both_changes_nothing_without_centring():
    _, first, batch = scored([2.0, 0.5], [1.0, 0.7])
    _, second, _ = scored([12.0, 10.5], [11.0, 10.7])
    assert bradley_terry(first, batch).sum.item() == pytest.approx(bradley_terry(second, batch).sum.item())
    assert bradley_terry(second, batch, centre=0.01).sum > bradley_terry(first, batch, centre=0.01).sum


def test_sums_of_micro_batches_are_the_whole():
    chosen, rejected, margins = [2.0, 0.5, -1.0], [1.0, 0.7, 0.3], [0.0, 1.0, 0.5]
    whole = bradley_terry(*scored(chosen, rejected, margins)[1:], centre=0.1)
    parts = [
        bradley_terry(*scored([c], [r], [m])[1:], centre=0.1)
        for c, r, m in zip(chosen, rejected, margins, strict=True)
    ]
    assert whole.sum.item() == pytest.approx(sum(part.sum.item() for part in parts))
    assert whole.count == sum(part.count for part in parts)


def test_pair_scores_follow_the_pairs_not_the_order_in_the_batch():
    _, scores, batch = scored([2.0, 0.5], [1.0, 0.7])
    turned = replace(batch, pairs=tuple((b, a) for a, b in batch.pairs))
    chosen, rejected = pair_scores(scores, turned)
    assert chosen.tolist() == [1.0, 0.7] and rejected.tolist() == [2.0, 0.5]


@pytest.mark.parametrize("options", [{"margin": -0.1}, {"centre": -1.0}])
def test_options_that_turn_the_loss_round_are_refused(options):
    with pytest.raises(UserError, match="--method"):
        bradley_terry(*scored([1.0], [0.0])[1:], **options)


def marked(labels, values):
    """One document: every second token is marked."""
    length = 2 * len(labels)
    trained = np.arange(length) % 2 == 1
    column = np.zeros(length, np.float32)
    column[trained] = labels
    batch = collate([Example(np.arange(length, dtype=np.int32), trained, "row", {LABEL: column})])
    value_N = torch.full((length,), 77.0, dtype=torch.float64)
    value_N[torch.from_numpy(trained)] = torch.tensor(values, dtype=torch.float64)
    return ScalarScores(value_N, value_N[-1:]), batch


def test_labels_by_hand_hard_and_soft():
    scores, batch = marked([1, 0, 0.25], [2.0, 1.0, -1.0])
    loss = step_labels(scores, batch)
    hard = math.log1p(math.exp(-2)) + math.log1p(math.exp(1))
    soft = 0.25 * math.log1p(math.exp(1)) + 0.75 * math.log1p(math.exp(-1))
    assert loss.sum.item() == pytest.approx(hard + soft)
    assert (loss.count, loss.count_name) == (3, "labels")
    assert loss.metrics["label_accuracy"] == (2, 3) and loss.metrics["positive_labels"] == (1.25, 3)


def test_a_soft_label_is_matched_at_its_own_log_odds():
    """The minimum of the cross-entropy with label y is the value log(y / (1 - y))."""
    scores, batch = marked([0.8], [math.log(4)])
    value_N = scores.value_N.requires_grad_()
    (gradient_N,) = torch.autograd.grad(step_labels(ScalarScores(value_N, value_N[-1:]), batch).sum, value_N)
    assert gradient_N.abs().max() < 1e-7


def test_label_gradient_is_that_of_finite_differences():
    scores, batch = marked([1, 0, 0.3], [0.4, -0.2, 1.0])
    assert torch.autograd.gradcheck(
        lambda v: step_labels(ScalarScores(v, v[-1:]), batch).sum, scores.value_N.requires_grad_()
    )
