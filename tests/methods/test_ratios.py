"""Rollout-training mismatch: truncated and masked importance sampling, by hand, and what they never touch."""

import math

import pytest
import torch
from policy_case import case, run

from rung.methods.policy_gradient import policy_gradient
from rung.methods.ratios import mismatch_weight

log = math.log
RHO = torch.tensor([0.25, 1.5, 3.0, 0.5, 2.0], dtype=torch.float64)  # old / sampler of two documents
DOCUMENT = torch.tensor([0, 0, 0, 2, 2])  # products 1.125 and 1
KINDS = [("tis", "token"), ("mis", "token"), ("tis", "sequence"), ("mis", "sequence")]


@pytest.mark.parametrize(
    ("correction", "level", "low", "high", "weights", "cut"),
    [
        ("tis", "token", 0.5, 2.0, [0.25, 1.5, 2.0, 0.5, 2.0], [0, 0, 1, 0, 0]),
        ("mis", "token", 0.5, 2.0, [0, 1.5, 0, 0.5, 2.0], [1, 0, 1, 0, 0]),  # the bounds themselves are kept
        ("tis", "sequence", 0.5, 1.1, [1.1, 1.1, 1.1, 1, 1], [1, 1, 1, 0, 0]),
        ("mis", "sequence", 0.0, 1.1, [0, 0, 0, 1, 1], [1, 1, 1, 0, 0]),
        ("mis", "sequence", 1.05, 2.0, [1.125] * 3 + [0, 0], [0, 0, 0, 1, 1]),
    ],
)
def test_weights_by_hand(correction, level, low, high, weights, cut):
    sampler_M = torch.tensor([-1.0, -2, -3, -4, -5], dtype=torch.float64)
    if correction == "mis" and level == "token":
        high += 1e-9  # exp and log may miss the bound itself by the last bit
        low -= 1e-9
    options = dict(correction=correction, level=level, low=low, high=high)
    weight_M, cut_M = mismatch_weight(sampler_M + RHO.log(), sampler_M, DOCUMENT, 3, **options)
    assert weight_M.tolist() == pytest.approx(weights)
    assert cut_M.tolist() == [bool(c) for c in cut]


@pytest.mark.parametrize(("correction", "level"), KINDS)
def test_the_weight_is_a_constant(correction, level):
    old_M = torch.full((5,), -1.0, requires_grad=True)
    options = dict(correction=correction, level=level, low=0.5, high=2.0)
    assert not mismatch_weight(old_M, torch.full((5,), -1.1), DOCUMENT, 3, **options)[0].requires_grad


@pytest.mark.parametrize(("correction", "level"), KINDS)
def test_a_perfect_sampler_changes_nothing(correction, level):
    logprob, advantage = [[-1.0, -2.0], [-0.5]], [[1.0, 1.0], [-1.0]]
    plain = run(policy_gradient, *case(logprob, advantage=advantage))[1]
    options = dict(correction=correction, correction_level=level)
    same = run(policy_gradient, *case(logprob, advantage=advantage, sampler_logprob=logprob), **options)[1]
    assert same == plain


def test_three_policies_the_correction_is_old_over_sampler_and_the_clip_current_over_old():
    """current / old = 1.1, old / sampler = 1.5: the loss is -1.5 * 1.1 A, and the clip sees 1.1."""
    columns = dict(advantage=[[2.0]], old_logprob=[[-1 - log(1.1)]], sampler_logprob=[[-1 - log(1.65)]])
    loss, gradient = run(policy_gradient, *case([[-1.0]], **columns), correction="tis")
    assert (loss.sum.item(), gradient[0]) == (pytest.approx(-3.3), pytest.approx(-3.3))


def test_without_an_old_policy_it_is_the_current_one_and_the_weight_has_no_gradient():
    """rho = 1.5 = current / sampler. Were the weight differentiated, the gradient would be twice as large."""
    columns = dict(advantage=[[2.0]], sampler_logprob=[[-1 - log(1.5)]])
    loss, gradient = run(policy_gradient, *case([[-1.0]], **columns), correction="tis")
    assert (loss.sum.item(), gradient[0]) == (pytest.approx(-3), pytest.approx(-3))


def test_a_masked_token_is_still_held_to_the_reference():
    columns = dict(advantage=[[2.0]], sampler_logprob=[[-4.0]], reference_logprob=[[-1.5]])
    loss, gradient = run(policy_gradient, *case([[-1.0]], **columns), correction="mis", beta=0.1)
    assert gradient[0] == pytest.approx(0.05)
    assert loss.metrics["corrected_share"] == (1, 1)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_ratios_beyond_all_measure_stay_finite(ratio):
    columns = dict(advantage=[[1.0, -1.0]], old_logprob=[[-900.0, -0.1]], sampler_logprob=[[-0.1, -900.0]])
    loss, gradient = run(policy_gradient, *case([[-0.1, -900.0]], **columns), ratio=ratio, correction="tis")
    assert torch.isfinite(loss.sum) and torch.isfinite(torch.tensor(gradient)).all()
    assert all(math.isfinite(total) for total, _ in loss.metrics.values())
