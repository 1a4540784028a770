"""A linear layer that can keep its weight the way the processor's matrix product wants it.

A CPU product in bf16 first lays its weight out in blocks. Training changes the weight every step, so that
work cannot be saved there; a sampler multiplies with the same weight hundreds of times, and for the few rows
of a decoding step the laying out costs as much as the product. `prepacked` does it once and the products
that follow use it; the numbers are the same to the bit, since the product is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 64  # rows the layout is chosen for; other numbers of rows work with it


class Linear(nn.Linear):
    """`nn.Linear`, reading its packed weight instead where one lies ready and no gradient is asked for."""

    packed: Tensor | None = None

    def forward(self, x_ND: Tensor) -> Tensor:
        if self.packed is None or torch.is_grad_enabled():
            return F.linear(x_ND, self.weight, self.bias)
        return multiply(x_ND, self.packed, self.bias)


def pack(weight_OD: Tensor) -> Tensor | None:
    """A copy of the weight in the product's own layout, or None where there is nothing to gain."""
    if (
        weight_OD.dtype != torch.bfloat16
        or weight_OD.device.type != "cpu"
        or not torch.backends.mkldnn.is_available()
    ):
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight_OD.detach(), ROWS)


def multiply(x_ND: Tensor, packed: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, the weight packed."""
    return torch.ops.mkldnn._linear_pointwise(x_ND, packed, bias_O, "none", [], "")


def pack_layers(model: nn.Module) -> None:
    """Pack every linear layer of a model. What was packed before is replaced: call it when weights changed."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.packed = pack(module.weight)


def unpack_layers(model: nn.Module) -> None:
    """Forget the copies. A model that is about to train needs their memory more than it needs them."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.packed = None
