"""From hidden states to log-probs of tokens without ever holding [tokens, vocabulary]: the façade.

    score = softcap(hidden @ weight.T + bias) / temperature,    softcap(x) = cap tanh(x / cap)
    logprob = log_softmax(score)[target],    entropy = -sum p log p

Any gradient may come back per token (policy gradients, entropy bonus, distillation), so in general the
backward pass forms the logits again, chunk by chunk. Where the caller can guess that gradient up to one
factor, as supervised training can, the forward pass makes the weights' gradients at once while a chunk's
logits are there, and the backward pass only checks the guess and scales: three products instead of four. A
wrong guess costs time, never correctness. The chunk mathematics is in linear_logprob_torch.py; on CUDA the
Triton kernels (linear_logprob_triton.py) do the parts that read or write logits.

Masked-out tokens are dropped before the first product: they cost nothing, score 0 and get no gradient.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rung.kernels import linear_logprob_torch as plain
from rung.kernels.linear_logprob_torch import Head

Backend = Literal["torch", "triton"]


@dataclass(frozen=True)
class LinearLogprob:
    """Per token, in float32 (float64 for float64 inputs). Parts that were not asked for are None.

    Everything but `top_ids_Nk` is differentiable. Masked-out tokens hold 0 everywhere.
    """

    logprob_N: Tensor
    entropy_N: Tensor | None = None
    top_logprobs_Nk: Tensor | None = None
    top_ids_Nk: Tensor | None = None
    id_logprobs_Nj: Tensor | None = None


def linear_logprob(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    mask_N: Tensor | None = None,
    ids_Nj: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
    top_k: int = 0,
    guess_N: Tensor | None = None,
    chunk_tokens: int | None = None,
    head_float32: bool = False,
    backend: Backend | None = None,
) -> LinearLogprob:
    """Log-prob of each target; on request the entropy, the `top_k` likeliest ids, the log-probs of `ids_Nj`.

    `guess_N` is the expected gradient of the log-probs up to one common factor (all ones for a mean NLL): a
    hint that saves a matrix product; it is ignored beside other requests and in fp16, where only the backward
    pass knows the loss scale. `head_float32` multiplies half-precision inputs in float32 (on CUDA products
    add up in float32 anyway). `chunk_tokens` bounds memory; the default is 128 MB of half-precision logits.
    """
    head = Head(weight_VD, bias_V, temperature, softcap, head_float32, chunk_tokens)
    _check(hidden_ND, head, targets_N, mask_N, ids_Nj, top_k, guess_N)
    only_targets = ids_Nj is None and top_k == 0
    backend = _choose_backend(backend, hidden_ND, only_targets)
    ids_NJ = targets_N[:, None] if ids_Nj is None else torch.cat([targets_N[:, None], ids_Nj], dim=1)
    rows_M = None if mask_N is None else mask_N.nonzero().squeeze(1)
    hidden_MD, ids_MJ = _take(hidden_ND, rows_M), _take(ids_NJ, rows_M)
    _check_ids(ids_MJ, len(weight_VD))
    guess_M = None
    if guess_N is not None and only_targets and not entropy and hidden_ND.dtype != torch.float16:
        guess_M = _take(guess_N, rows_M).detach().to(_wide(hidden_ND)) if torch.is_grad_enabled() else None
    parts = _Logprob.apply(hidden_MD, weight_VD, bias_V, ids_MJ, guess_M, head, entropy, top_k, backend)
    logprob_NJ, entropy_N, top_logprobs_Nk, top_ids_Nk = (_put_back(p, rows_M, len(hidden_ND)) for p in parts)
    id_logprobs_Nj = None if ids_Nj is None else logprob_NJ[:, 1:]
    return LinearLogprob(logprob_NJ[:, 0], entropy_N, top_logprobs_Nk, top_ids_Nk, id_logprobs_Nj)


def linear_nll_sum(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    weights_N: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """`(sum of weights * -logprob, logprob_N)`; the weights are constants and only the sum has a gradient."""
    if weights_N is None:
        weights_N = torch.ones_like(targets_N, dtype=_wide(hidden_ND))
    logprob_N = linear_logprob(hidden_ND, weight_VD, targets_N, guess_N=weights_N, **options).logprob_N
    return -(weights_N.detach().to(logprob_N.dtype) * logprob_N).sum(), logprob_N.detach()


class _Logprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        ids_NJ: Tensor,
        guess_N: Tensor | None,
        head: Head,
        entropy: bool,
        top_k: int,
        backend: Backend,
    ) -> tuple[Tensor | None, ...]:
        ctx.gradients, ctx.guess_N, ctx.backend = None, guess_N, backend
        ctx.options = (head.temperature, head.softcap, head.float32, head.chunk_tokens)
        ctx.set_materialize_grads(False)
        wanted = ctx.needs_input_grad[:3]
        if guess_N is not None and any(wanted):
            found = _gradients(hidden_ND, head, ids_NJ, guess_N[:, None], None, wanted, backend)
            ctx.gradients = (found.hidden_ND, found.weight_VD, found.bias_V)
            ctx.save_for_backward(hidden_ND, ids_NJ, weight_VD, bias_V)
            return found.logprob_NJ, None, None, None
        scores = _forward(hidden_ND, head, ids_NJ, entropy, top_k, backend)
        if scores.top_ids_Nk is not None:
            ctx.mark_non_differentiable(scores.top_ids_Nk)
            ids_NJ = torch.cat([ids_NJ, scores.top_ids_Nk], dim=1)
        ctx.save_for_backward(hidden_ND, ids_NJ, weight_VD, bias_V)
        return scores.logprob_NJ, scores.entropy_N, scores.top_logprobs_Nk, scores.top_ids_Nk

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, logprob_NJ: Tensor | None, entropy_N: Tensor | None, top_Nk: Tensor | None, _):
        # The guessed gradients are dropped here: with no other owner, autograd takes them without a copy.
        # A second backward pass, if there is one, goes the general way.
        guessed, ctx.gradients = ctx.gradients, None
        if guessed is not None and logprob_NJ is not None:
            factor = _factor(logprob_NJ[:, 0], ctx.guess_N)
            if factor is not None:
                return *(_scale_(gradient, factor) for gradient in guessed), *[None] * 6
        del guessed
        hidden_ND, ids_NJ, weight_VD, bias_V = ctx.saved_tensors  # raises if the weights changed meanwhile
        slope_NJ = torch.zeros_like(ids_NJ, dtype=_wide(hidden_ND))
        if logprob_NJ is not None:
            slope_NJ[:, : logprob_NJ.shape[1]] = logprob_NJ
        if top_Nk is not None:
            slope_NJ[:, ids_NJ.shape[1] - top_Nk.shape[1] :] = top_Nk
        head = Head(weight_VD, bias_V, *ctx.options)
        found = _gradients(
            hidden_ND, head, ids_NJ, slope_NJ, entropy_N, ctx.needs_input_grad[:3], ctx.backend
        )
        return found.hidden_ND, found.weight_VD, found.bias_V, *[None] * 6


def _factor(slope_N: Tensor, guess_N: Tensor) -> float | None:
    """The factor between what came back and what was guessed; None when there is no single one."""
    if not len(guess_N):
        return 1.0
    largest = guess_N.abs().argmax()
    factor = slope_N[largest] / guess_N[largest]
    rounding = 8 * torch.finfo(slope_N.dtype).eps
    bound_N = rounding * slope_N.abs()
    return float(factor) if bool(((slope_N - factor * guess_N).abs() <= bound_N).all()) else None


def _scale_(gradient: Tensor | None, factor: float) -> Tensor | None:
    return gradient if gradient is None or factor == 1.0 else gradient.mul_(factor)


def _forward(
    hidden_ND: Tensor, head: Head, ids_NJ: Tensor, entropy: bool, top_k: int, backend: Backend
) -> plain.Scores:
    if backend == "triton":
        from rung.kernels import linear_logprob_triton as fused

        return fused.forward(hidden_ND, head, ids_NJ, entropy)
    return plain.forward(hidden_ND, head, ids_NJ, entropy, top_k)


def _gradients(
    hidden_ND: Tensor,
    head: Head,
    ids_NJ: Tensor,
    slope_NJ: Tensor,
    entropy_slope_N: Tensor | None,
    wanted: tuple[bool, ...],
    backend: Backend,
) -> plain.Gradients:
    chunk_gradient: plain.ChunkGradient = plain.chunk_gradient
    if backend == "triton":
        from rung.kernels import linear_logprob_triton as fused

        chunk_gradient = fused.chunk_gradient
    return plain.gradients(hidden_ND, head, ids_NJ, slope_NJ, entropy_slope_N, wanted, chunk_gradient)


def _choose_backend(asked: Backend | None, hidden_ND: Tensor, only_targets: bool) -> Backend:
    """Triton where there is a GPU for it; it serves one id per token, in the dtypes its products know."""
    able = only_targets and hidden_ND.dtype != torch.float64
    if asked == "triton" and not able:
        raise ValueError("backend='triton' has no top_k, no ids_Nj and no float64; use None or 'torch'")
    if asked is None:
        return "triton" if able and hidden_ND.is_cuda and importlib.util.find_spec("triton") else "torch"
    return asked


def _take(tensor_N: Tensor, rows_M: Tensor | None) -> Tensor:
    return tensor_N if rows_M is None else tensor_N[rows_M]


def _put_back(part_M: Tensor | None, rows_M: Tensor | None, tokens: int) -> Any:
    if part_M is None or rows_M is None:
        return part_M
    return part_M.new_zeros(tokens, *part_M.shape[1:]).index_copy(0, rows_M, part_M)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _check(hidden_ND, head: Head, targets_N, mask_N, ids_Nj, top_k: int, guess_N) -> None:
    weight_VD = head.weight_VD
    if hidden_ND.ndim != 2 or weight_VD.ndim != 2 or hidden_ND.shape[1] != weight_VD.shape[1]:
        raise ValueError(
            f"hidden_ND {tuple(hidden_ND.shape)} and weight_VD {tuple(weight_VD.shape)} must be matrices "
            "that share their last axis; flatten [batch, time, width] to [tokens, width] first"
        )
    if hidden_ND.dtype != weight_VD.dtype:
        raise ValueError(f"hidden_ND is {hidden_ND.dtype} and weight_VD {weight_VD.dtype}; cast one of them")
    tokens, vocabulary = len(hidden_ND), len(weight_VD)
    shapes: dict[str, tuple] = {"targets_N": (targets_N, (tokens,)), "bias_V": (head.bias_V, (vocabulary,))}
    shapes |= {"mask_N": (mask_N, (tokens,)), "guess_N": (guess_N, (tokens,))}
    if ids_Nj is not None:
        shapes["ids_Nj"] = (ids_Nj, (tokens, ids_Nj.shape[-1]))
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    if mask_N is not None and mask_N.dtype != torch.bool:
        raise ValueError(f"mask_N must be boolean with True = trained, not {mask_N.dtype}")
    if not head.temperature > 0 or (head.softcap is not None and not head.softcap > 0):
        raise ValueError(f"temperature {head.temperature} and softcap {head.softcap} must be above 0")
    if not 0 <= top_k <= vocabulary or (head.chunk_tokens is not None and head.chunk_tokens < 1):
        raise ValueError(
            f"top_k {top_k} must be 0 to {vocabulary}, chunk_tokens {head.chunk_tokens} at least 1 or None"
        )


def _check_ids(ids_NJ: Tensor, vocabulary: int) -> None:
    """Only of tokens that count: a masked-out -100 is fine. A wrong id must not be a silent wrong loss."""
    if ids_NJ.numel() and (ids_NJ.min() < 0 or ids_NJ.max() >= vocabulary):
        raise ValueError(
            f"token ids from {int(ids_NJ.min())} to {int(ids_NJ.max())}, but the head has {vocabulary} rows "
            f"(0 to {vocabulary - 1}); leave positions out with mask_N, not with a negative id"
        )
