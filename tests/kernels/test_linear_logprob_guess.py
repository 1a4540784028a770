"""Gradients made in the forward pass from a guess: right ones save a product, wrong ones change nothing."""

import pytest
import torch
from plain_head import Products, close, gradients, plain, problem

from rung.kernels import linear_logprob_torch as chunks
from rung.kernels.linear_logprob import linear_logprob, linear_nll_sum


@pytest.mark.parametrize("factor", [1.0, -1 / 3, 0.0])
@pytest.mark.parametrize("uniform", [True, False])
def test_a_right_guess_gives_the_same_gradient_from_one_product(monkeypatch, uniform, factor):
    products = Products(monkeypatch)
    hidden, weight, bias_V, targets, mask_N = problem(9, 4, 13)
    guess_N = torch.ones(9)
    if not uniform:
        guess_N = torch.rand(9) - 0.3
        guess_N[mask_N.nonzero()[0]] = 0.0
    options = {"bias_V": bias_V, "mask_N": mask_N, "softcap": 2.0}
    out = linear_logprob(hidden, weight, targets, guess_N=guess_N, chunk_tokens=2, **options)
    loss = (out.logprob_N * guess_N * factor).sum()
    expected = (plain(hidden, weight, targets, **options)[0] * guess_N * factor).sum()
    leaves = [hidden, weight, bias_V]
    for found, oracle in zip(gradients(loss, leaves), gradients(expected, leaves), strict=True):
        close(found, oracle)
    assert sum(products.tokens) == int(mask_N.sum())


@pytest.mark.parametrize("wrong", ["one token", "sign of one", "zero of one", "guess of zero"])
def test_a_wrong_guess_costs_a_product_but_changes_nothing(monkeypatch, wrong):
    products = Products(monkeypatch)
    hidden, weight, _, targets, _ = problem(6, 4, 13, bias=False)
    slope_N, guess_N = torch.ones(6, dtype=torch.float64), torch.ones(6)
    if wrong == "guess of zero":
        guess_N = torch.zeros(6)
    else:
        slope_N[4] = {"one token": 1.0001, "sign of one": -1.0, "zero of one": 0.0}[wrong]
    out = linear_logprob(hidden, weight, targets, guess_N=guess_N)
    found = gradients((out.logprob_N * slope_N).sum(), [hidden, weight])
    expected = gradients((plain(hidden, weight, targets)[0] * slope_N).sum(), [hidden, weight])
    for ours, oracle in zip(found, expected, strict=True):
        close(ours, oracle)
    assert products.tokens == [6, 6]


def test_a_guess_allows_a_second_backward_pass():
    hidden, weight, _, targets, _ = problem(6, 4, 13, bias=False)
    loss = linear_logprob(hidden, weight, targets, guess_N=torch.ones(6)).logprob_N.sum()
    expected = torch.autograd.grad(plain(hidden, weight, targets)[0].sum() * 3, [hidden, weight])
    for keep in (True, False):
        found = torch.autograd.grad(loss * 3, [hidden, weight], retain_graph=keep)
        for ours, oracle in zip(found, expected, strict=True):
            close(ours, oracle)


def test_a_guess_is_idle_without_a_graph_and_beside_other_requests(monkeypatch):
    monkeypatch.setattr(chunks, "gradients", lambda *_: pytest.fail("gradients that nobody asked for"))
    hidden, weight, _, targets, _ = problem(6, 4, 13, bias=False)
    with torch.no_grad():
        close(
            linear_logprob(hidden, weight, targets, guess_N=torch.ones(6)).logprob_N,
            plain(hidden, weight, targets)[0],
        )
    out = linear_logprob(hidden, weight, targets, guess_N=torch.ones(6), entropy=True)
    close(out.entropy_N, plain(hidden, weight, targets)[1])


def test_nll_sum_is_the_weighted_sum_and_forms_logits_once(monkeypatch):
    products = Products(monkeypatch)
    hidden, weight, _, targets, mask_N = problem(9, 4, 13, bias=False)
    weights_N = torch.rand(9, dtype=torch.float64)
    loss, logprob_N = linear_nll_sum(hidden, weight, targets, weights_N=weights_N, mask_N=mask_N)
    oracle_N = plain(hidden, weight, targets, mask_N=mask_N)[0]
    close(logprob_N, oracle_N)
    expected = -(weights_N * oracle_N).sum()
    close(loss, expected)
    assert not logprob_N.requires_grad
    for ours, oracle in zip(
        gradients(loss / 7, [hidden, weight]), gradients(expected / 7, [hidden, weight]), strict=True
    ):
        close(ours, oracle)
    assert products.tokens == [int(mask_N.sum())]
