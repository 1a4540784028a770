"""Which tokens the credit falls on: the 80/20 mask, shaped advantages, decisions, DelTA."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.advantages.delta import delta_weights
from rung.advantages.tokens import decision_tokens, entropy_mask, entropy_shaped

ENTROPY = np.array([0.1, 0.9, 0.0, 0.3, 0.2, 0.5, 0.7, 0.05, 0.4, 0.6])
ADVANTAGE = np.array([1.0, -2.0, 1.0, 1.0, -2.0, 3.0, 3.0, 3.0, 3.0, 0.0])


def test_the_top_fifth_by_hand():
    """Of ten tokens the two with entropy 0.9 and 0.7."""
    advantage, weight = entropy_mask(ADVANTAGE, ENTROPY)
    assert advantage.tolist() == [0, -2, 0, 0, 0, 0, 3, 0, 0, 0]
    assert weight.tolist() == [1] * 10
    advantage, weight = entropy_mask(ADVANTAGE, ENTROPY, counted="kept")
    assert (weight * ADVANTAGE).tolist() == advantage.tolist() and weight.sum() == 2


def test_the_two_normalisers_differ_by_the_share_and_nothing_else():
    _, counted = entropy_mask(ADVANTAGE, ENTROPY)
    _, kept = entropy_mask(ADVANTAGE, ENTROPY, counted="kept")
    assert kept.sum() / counted.sum() == 0.2


def test_the_whole_share_keeps_all_and_ties_at_the_threshold_stay():
    assert entropy_mask(ADVANTAGE, ENTROPY, share=1.0)[0].tolist() == ADVANTAGE.tolist()
    assert entropy_mask(np.ones(4), np.array([0.0, 1.0, 1.0, 1.0]), share=0.25)[0].tolist() == [0, 1, 1, 1]
    assert [len(part) for part in entropy_mask(np.zeros(0), np.zeros(0))] == [0, 0]


def test_shaped_advantages_by_hand():
    """min(0.4 H, |A| / 2): 0.04; 0.36; ... ; for A = 0 nothing; capped where H is large."""
    shaped, weight = entropy_shaped(np.array([1.0, -2.0, 0.0, 0.1]), np.array([0.1, 0.9, 5.0, 5.0]))
    assert shaped == pytest.approx([1.04, -1.64, 0, 0.15])
    assert weight.tolist() == [1] * 4
    with pytest.raises(ValueError, match="kappa"):
        entropy_shaped(ADVANTAGE, ENTROPY, kappa=1.0)


@given(st.floats(-1e3, 1e3), st.floats(0, 12), st.floats(0, 10), st.floats(1.01, 10))
def test_shaping_never_turns_a_sign_and_only_ever_adds(advantage, entropy, alpha, kappa):
    shaped = entropy_shaped(np.array([advantage]), np.array([entropy]), alpha=alpha, kappa=kappa)[0][0]
    assert np.sign(shaped) == np.sign(advantage) and shaped >= advantage


def test_decisions_by_hand():
    decision, weight = decision_tokens(ENTROPY, threshold=0.7)
    assert decision.tolist() == [0, 1, 0, 0, 0, 0, 1, 0, 0, 0]
    assert weight == pytest.approx([0.25, 1] + [0.25] * 4 + [1] + [0.25] * 3)
    assert decision_tokens(ENTROPY, share=0.1)[0].sum() == 1
    assert decision_tokens(ENTROPY, threshold=0.0)[1].tolist() == [1] * 10


def test_decision_weights_leave_two_means():
    """(1/|D|) (sum_D a + sum_rest w b) = mean_D a + mean_rest b."""
    decision, weight = decision_tokens(ENTROPY, share=0.3)
    number = np.arange(10.0)
    on = decision > 0
    assert (weight * number).sum() / on.sum() == pytest.approx(number[on].mean() + number[~on].mean())


# ---- DelTA ----


def delta(advantage, probability, hidden, **options) -> list[float]:
    logprob = torch.tensor(probability, dtype=torch.float64).log()
    arrays = torch.tensor(advantage, dtype=torch.float64), logprob, torch.tensor(hidden, dtype=torch.float64)
    return delta_weights(*arrays, **options).tolist()


def test_delta_without_refinement_by_hand():
    """One number per state and p = 1/2. v = 2, 0 | -2, 0: centroids 1 and -1. Margins (v+1)^2 - (v-1)^2 = 4v
    on the positive side, -4v on the negative: 8, 0 | 8, 0, each with deviation 4, so sigmoid of 2 and 0."""
    weight = delta([1, 1, -1, -1], [0.5] * 4, [[4.0], [0.0], [-4.0], [0.0]], refine=0)
    high, low = 0.8 + 0.4 / (1 + np.exp(-2)), 1.0
    mean = (high + low) / 2
    assert weight == pytest.approx([high / mean, low / mean] * 2)


def test_delta_refined_once_by_hand():
    """After the pass above the centroids weigh v = 2 by a = sigmoid(2) and v = 0 by 1/2: +-c with c = 2a/(a + 1/2).
    The margins are 4cv: 8c and 0, still over the deviation 4 of the pass before: sigmoid(2c) and 1/2."""
    a = 1 / (1 + np.exp(-2))
    c = 2 * a / (a + 0.5)
    high, low = 0.8 + 0.4 / (1 + np.exp(-2 * c)), 1.0
    mean = (high + low) / 2
    weight = delta([1, 1, -1, -1], [0.5] * 4, [[4.0], [0.0], [-4.0], [0.0]])
    assert weight == pytest.approx([high / mean, low / mean] * 2)


def test_advantages_weigh_the_centroids():
    """Centroid of the positive side (3 * 2 + 1 * 0) / 4 = 1.5, of the negative -1: margins by hand."""
    weight = delta([3, 1, -1, -1], [0.5] * 4, [[4.0], [0.0], [-2.0], [-2.0]], refine=0)
    positive = np.array([(2 + 1) ** 2 - 0.5**2, 1 - 1.5**2])
    share = 1 / (1 + np.exp(-positive / positive.std()))
    raw = 0.8 + 0.4 * np.append(share, [1.0, 1.0])  # the negative tokens agree: deviation 0, share 1
    assert weight == pytest.approx(raw / raw.mean())


def test_tokens_both_sides_share_weigh_less_than_those_that_tell_them_apart():
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(400, 8)) * 0.3
    sign = np.repeat([1.0, -1.0], 200)
    shared = np.tile([True, False], 200)
    hidden = np.where(shared[:, None], np.eye(8)[0] * 3, sign[:, None] * np.eye(8)[1]) + noise
    weight = np.array(delta(sign, np.full(400, 0.4), hidden))
    assert weight[shared].mean() < 1 < weight[~shared].mean()
    assert weight.mean() == pytest.approx(1)


def test_certain_tokens_and_answers_without_credit():
    """A token of probability 1 has no gradient. Advantage 0 gets the lowest weight there is."""
    weight = delta([1, 1, -1, 0], [0.5, 1.0, 0.5, 0.5], [[1.0], [50.0], [-1.0], [9.0]])
    assert weight[3] == min(weight) and weight[3] / weight[0] >= 0.8 / 1.2 - 1e-12
    again = delta([1, 1, -1, 0], [0.5, 1.0, 0.5, 0.5], [[1.0], [-7.0], [-1.0], [9.0]])
    assert again == pytest.approx(weight)


@pytest.mark.parametrize("advantage", [[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0], [1.0, -1.0]])
def test_a_side_of_one_token_or_none_stays_finite(advantage):
    weight = delta(advantage, [0.5, 0.25], [[1.0, 2.0], [0.5, -1.0]], refine=2)
    assert np.isfinite(weight).all() and np.mean(weight) == pytest.approx(1)


def test_turning_all_signs_turns_nothing():
    """The two sides are symmetric."""
    arguments = [0.3, 0.6, 0.5, 0.2], [[1.0, 0.2], [0.3, -1.0], [-0.5, 0.4], [2.0, 1.0]]
    assert delta([1, 2, -1, -0.5], *arguments) == pytest.approx(delta([-1, -2, 1, 0.5], *arguments))
