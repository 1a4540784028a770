"""A packed linear layer is the plain one to the bit, and steps aside where a gradient is asked for."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rung.kernels.linear import Linear, multiply, pack, pack_layers, unpack_layers

needs_packing = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no packed products here")


def layer(inside, outside, bias=False, dtype=torch.bfloat16):
    torch.manual_seed(0)
    return Linear(inside, outside, bias=bias).to(dtype)


@needs_packing
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inside", "outside"), [(48, 97), (576, 1536), (1536, 576), (31, 17)])
@torch.no_grad()
def test_products_are_those_of_the_plain_layer_to_the_bit(inside, outside, bias):
    plain, packed = layer(inside, outside, bias), layer(inside, outside, bias)
    pack_layers(packed)
    assert packed.packed is not None
    for rows in (1, 2, 15, 64, 65, 300):
        x_ND = torch.randn(rows, inside).bfloat16()
        assert torch.equal(packed(x_ND), plain(x_ND)), rows
        assert torch.equal(
            multiply(x_ND, packed.packed, packed.bias), F.linear(x_ND, plain.weight, plain.bias)
        )


@needs_packing
def test_a_gradient_comes_through_the_weight_itself():
    packed = layer(32, 16)
    pack_layers(packed)
    x_ND = torch.randn(4, 32).bfloat16()
    packed(x_ND).sum().backward()
    torch.testing.assert_close(packed.weight.grad, x_ND.sum(0).expand(16, -1), rtol=0.02, atol=0.02)
    with torch.no_grad():
        packed.weight.zero_()
    assert packed(x_ND).abs().max() == 0, "with gradients on, the copy is not read"
    with torch.no_grad():
        assert packed(x_ND).abs().max() > 0, "without, it is, old as it may be"
        pack_layers(packed)
        assert packed(x_ND).abs().max() == 0, "packing again follows the weight"
        unpack_layers(packed)
        assert packed.packed is None and packed(x_ND).abs().max() == 0


def test_only_what_gains_is_packed():
    assert pack(torch.zeros(8, 8)) is None
    assert pack(torch.zeros(8, 8, dtype=torch.float16)) is None
    model = nn.Sequential(layer(8, 8, dtype=torch.float32), nn.Linear(8, 8))
    pack_layers(model)
    assert model[0].packed is None and not hasattr(model[1], "packed")


@needs_packing
def test_a_packed_copy_is_no_part_of_the_state():
    packed = layer(8, 8)
    pack_layers(packed)
    assert list(packed.state_dict()) == ["weight"]
    assert [name for name, _ in packed.named_parameters()] == ["weight"]
