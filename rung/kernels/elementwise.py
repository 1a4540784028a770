"""The memory-bound steps between matrix products: RMSNorm, rotary embedding, gated activation.

Each is an autograd function that keeps only its inputs. On a CPU it runs on our own kernels (native.py) where they are,
else, as on a GPU, on PyTorch's operators, going over memory as few times as those allow. `*_plain` is its
definition in a line or two, and what both are tested against.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.kernels import native

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
HALF = (torch.bfloat16, torch.float16)


def rms_norm(x: Tensor, weight_D: Tensor, epsilon: float, offset: float = 0.0) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * (weight + offset) over the last axis, in float32 inside."""
    if not torch.is_grad_enabled() and native.can(x, weight_D):
        return native.rms_norm(x, weight_D, epsilon, offset)[0]
    return _RMSNorm.apply(x, weight_D, epsilon, offset)


def rms_norm_plain(x: Tensor, weight_D: Tensor, epsilon: float, offset: float = 0.0) -> Tensor:
    wide = x.float() if x.dtype in HALF else x
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (normed * (weight_D.to(wide.dtype) + offset)).to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    """With n = x r, r = 1 / rms: dx = r (w dy - n mean(w dy n)), dw = sum over rows of dy n."""

    @staticmethod
    def forward(ctx, x, weight_D, epsilon, offset):
        ctx.offset = offset
        if native.can(x, weight_D):
            out, r = native.rms_norm(x, weight_D, epsilon, offset)
            ctx.save_for_backward(x, r, weight_D)
            return out
        wide = torch.float32 if x.dtype in HALF else x.dtype
        norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        r = torch.rsqrt(norms.square_().div_(x.shape[-1]).add_(epsilon))
        gain_D = weight_D.to(wide) + offset
        ctx.save_for_backward(x, r, weight_D)
        return torch.mul(x, r).mul_(gain_D).to(x.dtype)

    @staticmethod
    def backward(ctx, dy):
        x, r, weight_D = ctx.saved_tensors
        if native.can(x, weight_D):
            dx, dweight_D = native.rms_norm_backward(x, weight_D, r, dy.contiguous(), ctx.offset)
            return dx, dweight_D.to(weight_D.dtype), None, None
        width, gain_D = x.shape[-1], weight_D.to(r.dtype) + ctx.offset
        normed = torch.mul(x, r)
        product = torch.mul(normed, dy)
        slope = torch.matmul(product, gain_D).div_(width).unsqueeze(-1)
        dx = torch.mul(dy, gain_D).addcmul_(normed, slope, value=-1).mul_(r)
        return dx.to(x.dtype), product.reshape(-1, width).sum(0).to(weight_D.dtype), None, None


def rotate(x_NHd: Tensor, cos_Nd: Tensor, sin_Nd: Tensor) -> Tensor:
    """x cos + rotate_half(x) sin, the halves of a head paired as Hugging Face checkpoints pair them."""
    if not torch.is_grad_enabled():
        return _turn(x_NHd, cos_Nd, sin_Nd, 1)
    return _Rotate.apply(x_NHd, cos_Nd, sin_Nd)


def rotate_plain(x_NHd: Tensor, cos_Nd: Tensor, sin_Nd: Tensor) -> Tensor:
    first, second = x_NHd.chunk(2, dim=-1)
    return x_NHd * cos_Nd[:, None] + torch.cat((-second, first), dim=-1) * sin_Nd[:, None]


class _Rotate(torch.autograd.Function):
    """A rotation's transpose is the rotation back."""

    @staticmethod
    def forward(ctx, x_NHd, cos_Nd, sin_Nd):
        ctx.save_for_backward(cos_Nd, sin_Nd)
        return _turn(x_NHd, cos_Nd, sin_Nd, 1)

    @staticmethod
    def backward(ctx, grad_NHd):
        cos_Nd, sin_Nd = ctx.saved_tensors
        return _turn(grad_NHd, cos_Nd, sin_Nd, -1), None, None


def _turn(x_NHd: Tensor, cos_Nd: Tensor, sin_Nd: Tensor, sign: int) -> Tensor:
    if native.can(x_NHd, cos_Nd, sin_Nd):
        return native.rotate(x_NHd, cos_Nd, sin_Nd, sign)
    half = x_NHd.shape[-1] // 2
    sin = sin_Nd[:, None, :half]
    out = x_NHd * cos_Nd[:, None]
    out[..., :half].addcmul_(x_NHd[..., half:], sin, value=-sign)
    out[..., half:].addcmul_(x_NHd[..., :half], sin, value=sign)
    return out


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """activation(gate) * up."""
    if activation == "silu":
        if not torch.is_grad_enabled() and native.can(gate, up):
            return native.swiglu(gate, up)
        return _SwiGLU.apply(gate, up)
    return gated_plain(gate, up, activation)


def gated_plain(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    return ACTIVATIONS[activation](gate) * up


class _SwiGLU(torch.autograd.Function):
    """silu(gate) up (arXiv 2002.05202); silu is computed again in backward rather than kept."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return native.swiglu(gate, up) if native.can(gate, up) else F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors
        if native.can(gate, up):
            return native.swiglu_backward(gate, up, grad.contiguous())
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)
