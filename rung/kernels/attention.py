"""Causal attention over documents laid end to end: block-diagonal, no padding, no mask tensor.

A document's rows are attended on their own, so what stands in another document cannot reach them, not
even through rounding. On CUDA in half precision all documents go through one variable-length flash
kernel; elsewhere each goes through PyTorch's fused attention, whose CPU version is flash as well. A
score softcap (Gemma 2) has no fused kernel in PyTorch and takes the plain path.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def packed_attention(
    q_NHd: Tensor,
    k_NKd: Tensor,
    v_NKd: Tensor,
    lengths: tuple[int, ...],
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """softmax(scale q k^T + causal) v inside each document, `[N, H, d]`.

    `window`: a token sees itself and the window - 1 tokens before it. `softcap`: c tanh(score / c).
    """
    if q_NHd.is_cuda and softcap is None and q_NHd.dtype in (torch.bfloat16, torch.float16):
        return _varlen(q_NHd, k_NKd, v_NKd, lengths, scale, window)
    if len(lengths) == 1:
        return _document(q_NHd, k_NKd, v_NKd, scale, window, softcap)
    parts = zip(q_NHd.split(lengths), k_NKd.split(lengths), v_NKd.split(lengths), strict=True)
    return torch.cat([_document(q, k, v, scale, window, softcap) for q, k, v in parts])


def _varlen(q_NHd, k_NKd, v_NKd, lengths, scale, window) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.tensor((0, *lengths), device=q_NHd.device).cumsum(0, dtype=torch.int32)
    longest = max(lengths)
    left = -1 if window is None else window - 1
    return varlen_attn(
        q_NHd, k_NKd, v_NKd, ends, ends, longest, longest,
        scale=scale, window_size=(left, 0), enable_gqa=q_NHd.shape[1] != k_NKd.shape[1],
    )  # fmt: skip


def _document(q_THd, k_TKd, v_TKd, scale, window, softcap) -> Tensor:
    length, heads, kv_heads = q_THd.shape[0], q_THd.shape[1], k_TKd.shape[1]
    q, k, v = (x.transpose(0, 1)[None] for x in (q_THd, k_TKd, v_TKd))
    if heads != kv_heads:
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
    mask = None
    if window is not None and window < length:
        ages_TT = torch.arange(length, device=q.device)[:, None] - torch.arange(length, device=q.device)
        mask = (ages_TT >= 0) & (ages_TT < window)
    if softcap is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
    else:
        out = masked_attention(q, k, v, causal(length, q.device) if mask is None else mask, scale, softcap)
    return out[0].transpose(0, 1)


def causal(length: int, device) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def masked_attention(q_BHSd, k_BHTd, v_BHTd, mask_BHST, scale: float, softcap: float | None) -> Tensor:
    """The plain definition, with softmax in float32; also what the fused kernels are tested against."""
    scores = (q_BHSd @ k_BHTd.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return scores.masked_fill(~mask_BHST, -torch.inf).softmax(-1).to(v_BHTd.dtype) @ v_BHTd
