"""Attention of one new token a row over keys and values that lie in pages: what sampling on a GPU asks.

A row's history is scattered over pages of one pool, in the order its table names them, so rows can share what they
have in common and memory is given out a page at a time (arXiv 2309.06180). This is the definition; on a GPU the
Triton kernel beside it reads the pages where they lie.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor

from rung.kernels.attention import one_query_attention
from rung.kernels.linear_logprob import Backend


def paged_attention(
    q_BHd: Tensor,
    keys_PKtd: Tensor,
    values_PKtd: Tensor,
    table_BM: Tensor,
    lengths_B: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """softmax(scale q k^T) v over the first `lengths_B` tokens of each row, `[B, H, d]`; softmax in float32.

    P pages of t tokens; row b's tokens from m t to (m + 1) t - 1 lie in page `table_BM[b, m]`. Entries behind the last
    token may name any page of the pool, which must hold finite numbers. `window`: only the last so many tokens are seen.
    `backend`: Triton on a GPU where it is installed, else torch, if None.
    """
    able = q_BHd.is_cuda and q_BHd.dtype != torch.float64 and has_triton()
    if backend == "triton" or (backend is None and able):
        from rung.kernels.paged_attention_triton import paged_attention_triton

        return paged_attention_triton(
            q_BHd, keys_PKtd, values_PKtd, table_BM, lengths_B, scale, window, softcap
        )
    k_BKTd, v_BKTd = (gathered(x, table_BM) for x in (keys_PKtd, values_PKtd))
    ages_BT = lengths_B[:, None] - 1 - torch.arange(k_BKTd.shape[2], device=q_BHd.device)
    seen_BT = (ages_BT >= 0) if window is None else (ages_BT >= 0) & (ages_BT < window)
    mask_BT = torch.zeros(seen_BT.shape, device=q_BHd.device).masked_fill_(~seen_BT, -torch.inf)
    q_BKGd = q_BHd.unflatten(1, (k_BKTd.shape[1], -1))
    return one_query_attention(q_BKGd, k_BKTd, v_BKTd, mask_BT[:, None, None], scale, softcap).flatten(1, 2)


def gathered(pool_PKtd: Tensor, table_BM: Tensor) -> Tensor:
    """The pages of each row in a line, `[B, K, M t, d]`."""
    return pool_PKtd[table_BM.long()].transpose(1, 2).flatten(2, 3)


@cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
