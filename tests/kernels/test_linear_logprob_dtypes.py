"""Half precision: error bounds, float32 where it matters, the loss scale of fp16."""

import math

import pytest
import torch
from plain_head import gradients, plain, problem, shrink_blocks

from rung.kernels import linear_logprob_torch as chunks
from rung.kernels.linear_logprob import linear_logprob


def relative(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("chunk_tokens", [None, 16])
@pytest.mark.parametrize("guess", [False, True])
@pytest.mark.parametrize(
    ("dtype", "value_bound", "gradient_bound"),
    [(torch.float32, 2e-5, 2e-6), (torch.bfloat16, 6e-2, 2e-2), (torch.float16, 8e-3, 2e-3)],
)
def test_error_bounds_of_each_dtype(dtype, value_bound, gradient_bound, guess, chunk_tokens, monkeypatch):
    """Against float64 on the same rounded inputs. Logits reach 12: rounding one to bf16 moves it by 0.03."""
    shrink_blocks(monkeypatch)
    hidden, weight, bias_V, targets, _ = problem(64, 32, 97, dtype)
    guess_N = torch.ones(64) if guess else None
    out = linear_logprob(hidden, weight, targets, bias_V=bias_V, guess_N=guess_N, chunk_tokens=chunk_tokens)
    exact = plain(hidden, weight, targets, bias_V)[0]
    assert out.logprob_N.dtype == torch.float32
    assert (out.logprob_N - exact).abs().max() < value_bound
    leaves = [hidden, weight, bias_V]
    found, oracle = gradients(out.logprob_N.sum(), leaves), gradients(exact.sum(), leaves)
    for leaf, ours, theirs in zip(leaves, found, oracle, strict=True):
        assert ours.dtype == leaf.dtype
        assert relative(ours, theirs.double()) < gradient_bound


def test_float32_head_takes_the_rounding_of_logits_away():
    hidden, weight, _, targets, _ = problem(64, 32, 97, torch.bfloat16, bias=False)
    exact = plain(hidden, weight, targets)[0]
    out = linear_logprob(hidden, weight, targets, head_float32=True, chunk_tokens=20)
    assert (out.logprob_N - exact).abs().max() < 2e-5
    found = gradients(out.logprob_N.sum(), [hidden, weight])
    oracle = gradients(exact.sum(), [hidden, weight])
    assert found[1].dtype == torch.bfloat16
    assert relative(found[0], oracle[0].double()) < 4e-3
    assert relative(found[1], oracle[1].double()) < 4e-3


def test_half_logits_are_widened_only_on_request():
    hidden, weight = torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(5, 3, dtype=torch.bfloat16)
    assert chunks.head_product(hidden, chunks.Head(weight)).dtype == torch.bfloat16
    assert chunks.head_product(hidden, chunks.Head(weight, float32=True)).dtype == torch.float32


@pytest.mark.parametrize("guess_N", [None, torch.ones(1024)])
def test_the_weight_gradient_adds_up_in_float32(guess_N):
    """Errata 15. 1,024 chunks add the same number: in bf16 the sum would stop growing at 256 of them."""
    hidden = torch.ones(1024, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(1024, dtype=torch.int64)
    linear_logprob(hidden, weight, targets, chunk_tokens=1, guess_N=guess_N).logprob_N.sum().backward()
    assert weight.grad.flatten().tolist() == [512.0, -512.0]


def test_fp16_gradients_are_formed_at_the_loss_scale():
    """p = 9.2e-9 is no fp16 number, 65,536 times it is: a guess must not round it away beforehand."""
    hidden = torch.ones(1, 1, dtype=torch.float16)
    weight = torch.tensor([[18.5], [0.0]], dtype=torch.float16, requires_grad=True)
    loss = linear_logprob(hidden, weight, torch.tensor([0]), guess_N=torch.ones(1)).logprob_N.sum()
    (loss * 2.0**16).backward()
    assert weight.grad[1].item() == pytest.approx(-(2**16) / (1 + math.exp(18.5)), rel=0.01)


def test_a_confident_token_keeps_the_precision_of_its_gradient():
    """p = 0.99899: bf16 holds 1 - p to 8 bits but p only to 1/256, so the target goes before the rounding."""
    hidden = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.tensor([[6.90625], [0.0]], dtype=torch.bfloat16)
    linear_logprob(hidden, weight, torch.tensor([0])).logprob_N.sum().backward()
    exact = 6.90625 / (1 + math.exp(6.90625))
    assert hidden.grad.item() == pytest.approx(exact, rel=0.01)
