"""The memory-bound steps between matrix products: RMSNorm, rotary embedding, gated activation.

Written as autograd functions that keep only their inputs and recompute the rest in backward, which both
halves the activations a layer holds and removes passes over memory. The plain twins, one line each, are
what they are tested against and what runs when no gradient is wanted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def rms_norm(x: Tensor, weight_D: Tensor, epsilon: float, offset: float = 0.0) -> Tensor:
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (normed * (weight_D.to(wide.dtype) + offset)).to(x.dtype)


def rotate(x_NHd: Tensor, cos_Nd: Tensor, sin_Nd: Tensor) -> Tensor:
    """x cos + rotate_half(x) sin, the halves of a head paired as Hugging Face checkpoints pair them."""
    first, second = x_NHd.chunk(2, dim=-1)
    return x_NHd * cos_Nd[:, None] + torch.cat((-second, first), dim=-1) * sin_Nd[:, None]


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    return ACTIVATIONS[activation](gate) * up
