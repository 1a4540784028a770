"""Fused elementwise steps against their one-line definitions, values and gradients, wide and narrow."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from rung.kernels.elementwise import (
    ACTIVATIONS,
    gated,
    gated_plain,
    rms_norm,
    rms_norm_plain,
    rotate,
    rotate_plain,
)


def draw(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def angles(tokens, width, seed=5):
    half = torch.rand(tokens, width // 2, generator=torch.Generator().manual_seed(seed)) * 6
    both = torch.cat((half, half), -1).double()
    return 1.3 * both.cos(), 1.3 * both.sin()  # yarn makes them longer than 1


PAIRS = {
    "norm": (rms_norm, rms_norm_plain, lambda t: (draw(7, 10, dtype=t), draw(10, dtype=t, seed=1), 1e-2)),
    "norm of heads, offset": (
        rms_norm,
        rms_norm_plain,
        lambda t: (draw(4, 3, 10, dtype=t), draw(10, dtype=t, seed=1), 1e-6, 1.0),
    ),
    "rotation": (rotate, rotate_plain, lambda t: (draw(5, 3, 8, dtype=t), *(a.to(t) for a in angles(5, 8)))),
    "silu": (gated, gated_plain, lambda t: (draw(6, 9, dtype=t), draw(6, 9, dtype=t, seed=1), "silu")),
    "gelu": (gated, gated_plain, lambda t: (draw(6, 9, dtype=t), draw(6, 9, dtype=t, seed=1), "gelu")),
}


def grads(function, arguments, direction):
    leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
    out = function(*arguments)
    return [out, *torch.autograd.grad(out, leaves, direction.to(out.dtype))]


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_agree_with_the_plain_twin(name):
    fused, plain, make = PAIRS[name]
    arguments = make(torch.float64)
    direction = draw(*arguments[0].shape, seed=7).detach()
    for ours, theirs in zip(
        grads(fused, arguments, direction), grads(plain, arguments, direction), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_are_the_limits_of_differences(name):
    fused, _, make = PAIRS[name]
    assert gradcheck(fused, make(torch.float64))


@pytest.mark.parametrize("name", PAIRS)
def test_bf16_errs_by_a_rounding_or_two(name):
    """Against float64 on the same bf16 numbers: the norm rounds once, the others at each step."""
    fused, plain, make = PAIRS[name]
    narrow = make(torch.bfloat16)
    wide = [
        a.detach().double().requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a
        for a in narrow
    ]
    direction = draw(*narrow[0].shape, seed=7).detach().bfloat16()
    for ours, exact in zip(grads(fused, narrow, direction), grads(plain, wide, direction), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours - exact).abs().max() < 2**-7 * exact.abs().max()


def test_rms_norm_by_hand():
    """(3, 4) has mean square 12.5; with epsilon 12.5 the root is 5: (0.6, 0.8) times weight plus offset."""
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    weight = torch.tensor([1.0, 10.0], dtype=torch.float64)
    assert rms_norm(x, weight, 12.5).tolist() == [pytest.approx([0.6, 8.0])]
    assert rms_norm(x, weight, 12.5, 1.0).tolist() == [pytest.approx([1.2, 8.8])]


def test_rms_norm_of_bf16_sums_squares_in_float32():
    """4096 squares of 1/16 after one of 256 squared: in bf16 each of them would vanish beside it."""
    x = torch.full((1, 4097), 0.25, dtype=torch.bfloat16)
    x[0, 0] = 16.0
    one = torch.ones(4097, dtype=torch.bfloat16)
    mean = (256 + 4096 / 16) / 4097
    assert rms_norm(x, one, 0.0)[0, 0].item() == pytest.approx(16 / math.sqrt(mean), rel=2**-8)


def test_rms_norm_of_bf16_rounds_once():
    """As the definition, which is float32 up to the last cast, but for a tie here and there."""
    x, weight = draw(50, 64, dtype=torch.bfloat16), draw(64, dtype=torch.bfloat16, seed=1)
    differ = rms_norm(x, weight, 1e-6) != rms_norm_plain(x, weight, 1e-6)
    assert differ.float().mean() < 0.01


def test_a_quarter_turn_by_hand():
    """By 90 degrees feature i goes to i + d/2 and that one, negated, to i: (1, 2, 3, 4) -> (-3, -4, 1, 2)."""
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    assert rotate(x, torch.zeros(1, 4), torch.ones(1, 4)).tolist() == [[[-3.0, -4.0, 1.0, 2.0]]]


def test_a_rotation_keeps_lengths_and_its_gradient_turns_back():
    x, (cos, sin) = draw(5, 3, 8), (a / 1.3 for a in angles(5, 8))
    turned = rotate(x, cos, sin)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    turned.backward(turned.detach())
    torch.testing.assert_close(x.grad, x.detach())


@pytest.mark.parametrize(
    ("name", "at_one"),
    [("silu", 1 / (1 + math.exp(-1))), ("gelu", 0.5 * (1 + math.erf(1 / math.sqrt(2)))),
     ("gelu_pytorch_tanh", 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715)))],
)  # fmt: skip
def test_activations_by_their_formulas(name, at_one):
    assert name in ACTIVATIONS
    gate, up = torch.ones(1, dtype=torch.float64), torch.full((1,), 3.0, dtype=torch.float64)
    assert gated(gate, up, name).item() == pytest.approx(3 * at_one, rel=1e-12)


def test_only_inputs_and_one_number_a_row_are_kept_for_backward():
    kept = []
    x, weight, gate, up = draw(50, 20), draw(20), draw(50, 20), draw(50, 20)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        rms_norm(x, weight, 1e-6)
        gated(gate, up, "silu")
    assert sum(t.numel() for t in kept) == 50 * 20 + 50 + 20 + 2 * 50 * 20
