"""The Triton kernels against float64 autograd: on the GPU where there is one, else in Triton's interpreter.

Triton is no dependency on a machine without a GPU (it is a gigabyte); then these tests skip.
"""

import importlib.util
import os

import pytest
import torch
from plain_head import SCORINGS, gradients, plain, problem

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton", allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined, at the import below

from rung.kernels import linear_logprob_triton as fused  # noqa: E402
from rung.kernels.linear_logprob import linear_logprob  # noqa: E402


def compare(
    dtype, value_bound, gradient_bound, *, entropy, guess, bias, masked=True, size=(37, 40, 300), **scoring
):
    leaves = problem(*size, dtype, bias=bias)
    hidden, weight, bias_V = (
        None if x is None else x.detach().to(DEVICE).requires_grad_() for x in leaves[:3]
    )
    targets, mask_N = (x.to(DEVICE) for x in leaves[3:])
    options = {"bias_V": bias_V, "mask_N": mask_N if masked else None} | scoring
    guess_N = torch.ones(size[0], device=DEVICE) if guess else None
    out = linear_logprob(
        hidden,
        weight,
        targets,
        entropy=entropy,
        guess_N=guess_N,
        backend="triton",
        chunk_tokens=16,
        **options,
    )
    exact, exact_entropy, *_ = plain(hidden, weight, targets, **options)
    slope_N = torch.ones(size[0], device=DEVICE) if guess else torch.randn(size[0], device=DEVICE)
    ours, theirs = (out.logprob_N * slope_N).sum(), (exact * slope_N).sum()
    assert (out.logprob_N - exact).abs().max() < value_bound
    if entropy:
        assert (out.entropy_N - exact_entropy).abs().max() < value_bound
        ours, theirs = ours + (out.entropy_N * slope_N).sum(), theirs + (exact_entropy * slope_N).sum()
    for found, oracle in zip(
        gradients(ours, [hidden, weight, bias_V]), gradients(theirs, [hidden, weight, bias_V]), strict=True
    ):
        if found is not None:
            assert (found - oracle).abs().max() < gradient_bound * oracle.abs().max()


@pytest.mark.parametrize("scoring", SCORINGS)
def test_option_grid_in_float32(scoring):
    compare(torch.float32, 2e-5, 1e-5, entropy=True, guess=False, **scoring)


def test_gradients_made_in_the_forward_pass():
    compare(torch.float32, 2e-5, 1e-5, entropy=False, guess=True, bias=True)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 2e-2), (torch.float16, 4e-3)])
def test_half_precision(dtype, bound):
    """The forward product keeps float32 logits; gradients are formed in half precision."""
    if DEVICE == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies the bit patterns of bf16 numbers")
    compare(dtype, 1e-4, bound, entropy=True, guess=False, bias=False)


def test_several_programs_and_steps_over_the_vocabulary(monkeypatch):
    """1,100 ids: five programs of two tiles, and three steps of 512 for the gradient."""
    monkeypatch.setattr(fused, "TILES_PER_PROGRAM", 2)
    monkeypatch.setattr(fused, "IDS_PER_STEP", 512)
    compare(torch.float32, 2e-5, 1e-5, entropy=True, guess=False, bias=True, masked=False, size=(5, 33, 1100))


def test_nothing_trained():
    hidden, weight, _, targets, _ = problem(4, 16, 32, torch.float32, bias=False)
    mask_N = torch.zeros(4, dtype=torch.bool, device=DEVICE)
    out = linear_logprob(
        hidden.to(DEVICE),
        weight.to(DEVICE),
        targets.to(DEVICE),
        mask_N=mask_N,
        entropy=True,
        backend="triton",
    )
    (out.logprob_N.sum() + out.entropy_N.sum()).backward()
    assert not out.logprob_N.any() and not out.entropy_N.any() and not weight.grad.any()


def test_forbidden_words_give_no_nan():
    hidden = torch.ones(2, 16, device=DEVICE, requires_grad=True)
    weight = torch.zeros(3, 16, device=DEVICE)
    weight[:, 0] = torch.tensor([300.0, 0.0, -300.0])
    bias_V = torch.tensor([0.0, 0.0, -torch.inf], device=DEVICE)
    targets = torch.tensor([0, 1], device=DEVICE)
    out = linear_logprob(hidden, weight, targets, bias_V=bias_V, entropy=True, backend="triton")
    (gradient,) = torch.autograd.grad(out.logprob_N.sum() + out.entropy_N.sum(), hidden)
    assert out.logprob_N.tolist() == [0.0, -300.0]
    assert gradient[:, 0].tolist() == [0.0, -300.0]
