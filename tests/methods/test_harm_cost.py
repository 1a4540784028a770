"""The loss of cost models: hand-derived numbers, limits, finite differences, and Bradley-Terry as its parts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rung.batch import Example, Pair, ScalarScores, collate_pairs
from rung.methods.bradley_terry import bradley_terry
from rung.methods.harm_cost import SAFE, harm_cost, safety
from rung.methods.preference import ends


def answer(ids, safe):
    """Only the label at the last token may be read."""
    column = np.where(np.arange(len(ids)) == len(ids) - 1, safe, 1 - safe).astype(np.float32)
    return Example(np.array(ids, np.int32), np.arange(len(ids)) >= 2, str(ids), {SAFE: column})


def case(chosen, rejected, safe):
    """Costs at the last tokens, and something else everywhere else. `safe` holds both answers' labels."""
    batch = collate_pairs(
        [Pair(answer([1, 2, 3 + i, 4], w), answer([1, 2, 50 + i], h)) for i, (w, h) in enumerate(safe)]
    )
    value_N = torch.full((len(batch.token_ids_N),), 77.0, dtype=torch.float64)
    for places, values in zip(ends(batch), (chosen, rejected), strict=True):
        value_N[places] = torch.tensor(values, dtype=torch.float64)
    return value_N.requires_grad_(), batch


def loss_of(value_N, batch):
    last_B = torch.tensor(batch.lengths).cumsum(0) - 1
    return harm_cost(ScalarScores(value_N, value_N[last_B]), batch)


def gradients(chosen, rejected, safe):
    value_N, batch = case(chosen, rejected, safe)
    (gradient_N,) = torch.autograd.grad(loss_of(value_N, batch).sum, value_N)
    found = [gradient_N[places].tolist() for places in ends(batch)]
    gradient_N[torch.cat(ends(batch))] = 0
    assert not gradient_N.any()  # no other token has a say
    return found


def softplus(x):
    return math.log1p(math.exp(x))


def test_by_hand():
    """Rows: safe against unsafe, both unsafe, both safe; the costs 1 | 2, 3 | -1, -2 | -2."""
    found = loss_of(*case([1.0, 3.0, -2.0], [2.0, -1.0, -2.0], [(1, 0), (0, 0), (1, 1)]))
    first = softplus(-1) + softplus(1) + softplus(-2)
    second = softplus(4) + softplus(-3) + softplus(1)
    third = math.log(2) + 2 * softplus(-2)
    assert found.sum.item() == pytest.approx(first + second + third)
    assert (found.count, found.count_name) == (3, "pairs")
    assert found.metrics["pair_accuracy"] == (1.5, 3)
    assert found.metrics["cost_gap"] == (pytest.approx(-3), 3)
    assert found.metrics["sign_accuracy"] == (4, 6)  # wrong: the safe answer of 1, the unsafe one of -1
    assert found.metrics["chosen_score"] == (2, 3) and found.metrics["rejected_score"] == (-1, 3)


def test_at_0_each_of_the_three_comparisons_is_a_coin_and_pulls_by_a_half():
    found = loss_of(*case([0.0], [0.0], [(1, 0)]))
    assert found.sum.item() == pytest.approx(3 * math.log(2))
    assert found.metrics["sign_accuracy"] == (1, 2) and found.metrics["pair_accuracy"] == (0.5, 1)
    assert gradients([0.0], [0.0], [(1, 0)]) == [[1.0], [-1.0]]
    assert gradients([0.0], [0.0], [(0, 0)]) == [[0.0], [-1.0]]  # both unsafe: up, and apart
    assert gradients([0.0], [0.0], [(1, 1)]) == [[1.0], [0.0]]


def test_what_is_far_on_the_right_side_is_left_alone():
    assert loss_of(*case([-40.0], [40.0], [(1, 0)])).sum.item() == pytest.approx(0, abs=1e-15)
    wrong = gradients([40.0], [-40.0], [(1, 0)])
    assert wrong == [
        [pytest.approx(2)],
        [pytest.approx(-2)],
    ]  # and of what is far wrong every term pulls whole


def test_it_is_bradley_terry_three_times():
    """Once between the answers, the harmful one first, and once for each answer against one of cost 0."""
    chosen, rejected, safe = [0.3, -1.2, 0.4], [0.9, 0.2, 0.1], [(1, 0), (1, 1), (0, 0)]

    def compared(better, worse):
        value_N, batch = case(better, worse, safe)
        last_B = torch.tensor(batch.lengths).cumsum(0) - 1
        return bradley_terry(ScalarScores(value_N, value_N[last_B]), batch).sum.item()

    expected = compared(rejected, chosen)
    for costs, labels in ((chosen, [w for w, _ in safe]), (rejected, [h for _, h in safe])):
        expected += compared(
            [0.0 if is_safe else cost for cost, is_safe in zip(costs, labels, strict=True)],
            [cost if is_safe else 0.0 for cost, is_safe in zip(costs, labels, strict=True)],
        )
    assert loss_of(*case(chosen, rejected, safe)).sum.item() == pytest.approx(expected)


def test_labels_that_disagree_are_matched_at_their_log_odds():
    """Three rows of four call an answer unsafe: alone, its sign terms end at log 3, where the gradient vanishes."""
    cost = math.log(3)
    chosen, rejected = gradients([cost] * 4, [cost + 60] * 4, [(0, 0)] * 3 + [(1, 0)])
    assert sum(chosen) == pytest.approx(0, abs=1e-12)
    assert rejected == pytest.approx([0] * 4, abs=1e-12)


def test_gradient_is_that_of_finite_differences():
    value_N, batch = case([0.3, -1.0, 0.2], [0.9, 0.2, -0.1], [(1, 0), (1, 1), (0, 0)])
    assert torch.autograd.gradcheck(lambda values: loss_of(values, batch).sum, value_N)


def test_a_constant_added_to_all_is_no_longer_free():
    low, high = (loss_of(*case([c], [c + 1], [(1, 0)])).sum.item() for c in (-0.5, 4.5))
    order = softplus(-1)
    assert low == pytest.approx(order + 2 * softplus(-0.5))
    assert high == pytest.approx(order + softplus(4.5) + softplus(-5.5))


def test_sums_of_micro_batches_are_the_whole():
    rows = ([2.0, 0.5, -1.0], [1.0, 0.7, 0.3], [(1, 0), (0, 0), (1, 1)])
    whole = loss_of(*case(*rows))
    parts = [loss_of(*case([w], [h], [s])) for w, h, s in zip(*rows, strict=True)]
    assert whole.sum.item() == pytest.approx(sum(part.sum.item() for part in parts))
    assert whole.count == sum(part.count for part in parts)


def test_labels_follow_the_pairs_not_the_order_in_the_batch():
    _, batch = case([1.0, 1.0], [0.0, 0.0], [(1, 0), (0, 0)])
    assert safety(batch).tolist() == [[1, 0], [0, 0]]
    turned = replace(batch, pairs=tuple((second, first) for first, second in batch.pairs))
    assert safety(turned).tolist() == [[0, 1], [0, 0]]
