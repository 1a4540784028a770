"""The Triton half of paged attention: one program a row, key-value head and part of the row's pages.

The G query heads that share a key-value head are the rows of one product, so a page is read once for all of them, and
the softmax runs along the pages with a running maximum (arXiv 2205.14135). A long history is cut into parts that are
read by different programs, since a few rows alone would leave most of a GPU idle (flash-decoding); what the parts found
is joined afterwards. How many parts there are follows from the table's width and not from the lengths, so that the
launch is the same at every step and can stand in a CUDA graph.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

PAGES_PER_PROGRAM = 8
LOWEST = -1e30  # a finite start for running maxima: minus infinity less minus infinity is not a number


def paged_attention_triton(
    q_BHd: Tensor,
    keys_PKtd: Tensor,
    values_PKtd: Tensor,
    table_BM: Tensor,
    lengths_B: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    rows, heads, width = q_BHd.shape
    _, kv_heads, page, _ = keys_PKtd.shape
    q_BHd, table_BM = q_BHd.contiguous(), table_BM.contiguous()
    parts = triton.cdiv(table_BM.shape[1], PAGES_PER_PROGRAM)
    whole = parts == 1
    out_BHd = torch.empty_like(q_BHd)
    partial_SBHd = out_BHd if whole else q_BHd.new_empty(parts, rows, heads, width, dtype=torch.float32)
    peaks_SBH, sums_SBH = (q_BHd.new_empty(parts, rows, heads, dtype=torch.float32) for _ in range(2))
    with torch.cuda.device(q_BHd.device) if q_BHd.is_cuda else nullcontext():
        _kernel[(rows, kv_heads, parts)](
            q_BHd,
            keys_PKtd,
            values_PKtd,
            table_BM,
            lengths_B,
            partial_SBHd,
            peaks_SBH,
            sums_SBH,
            table_BM.shape[1],
            0 if window is None else window,
            scale,
            1.0 if softcap is None else softcap,
            HAS_WINDOW=window is not None,
            HAS_CAP=softcap is not None,
            WHOLE=whole,
            KV_HEADS=kv_heads,
            GROUP=heads // kv_heads,
            WIDTH=width,
            PAGE=page,
            PAGES=PAGES_PER_PROGRAM,
            BLOCK_G=max(16, triton.next_power_of_2(heads // kv_heads)),  # a product has 16 rows at least
            BLOCK_D=max(16, triton.next_power_of_2(width)),
            LOWEST=LOWEST,
        )
    if whole:
        return out_BHd
    shares_SBH = (peaks_SBH - peaks_SBH.amax(0)).exp() * sums_SBH
    shares_SBH = shares_SBH / shares_SBH.sum(0)
    return (partial_SBHd * shares_SBH[..., None]).sum(0).to(q_BHd.dtype)


@triton.jit
def _kernel(
    q_ptr,
    keys_ptr,
    values_ptr,
    table_ptr,
    lengths_ptr,
    out_ptr,
    peaks_ptr,
    sums_ptr,
    table_width,
    window,
    scale,
    softcap,
    HAS_WINDOW: tl.constexpr,
    HAS_CAP: tl.constexpr,
    WHOLE: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    PAGES: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    LOWEST: tl.constexpr,
):
    """What one part of a row's pages says: its own softmax's mean of values, and the weight of that part."""
    row, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths_ptr + row).to(tl.int32)
    first = 0
    if HAS_WINDOW:
        first = tl.maximum(length - window, 0)
    g, d, t = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_D), tl.arange(0, PAGE)
    heads = row * KV_HEADS * GROUP + kv_head * GROUP + g
    real = (g < GROUP)[:, None] & (d < WIDTH)[None, :]
    q = tl.load(q_ptr + heads.to(tl.int64)[:, None] * WIDTH + d[None, :], mask=real, other=0.0)
    peak = tl.full([BLOCK_G], LOWEST, tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    mean = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    begin = tl.maximum(part * PAGES, first // PAGE)
    end = tl.minimum((part + 1) * PAGES, (length + PAGE - 1) // PAGE)
    for index in range(begin, end):
        page = tl.load(table_ptr + row * table_width + index).to(tl.int64)
        places = ((page * KV_HEADS + kv_head) * PAGE + t)[:, None] * WIDTH + d[None, :]
        seen = (index * PAGE + t < length) & (index * PAGE + t >= first)
        inside = seen[:, None] & (d < WIDTH)[None, :]
        k = tl.load(keys_ptr + places, mask=inside, other=0.0)
        v = tl.load(values_ptr + places, mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if HAS_CAP:
            scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)  # tanh
        scores = tl.where(seen[None, :], scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        weights = tl.exp(scores - new_peak[:, None])
        rescale = tl.exp(peak - new_peak)
        total = total * rescale + tl.sum(weights, axis=1)
        mean = mean * rescale[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        peak = new_peak
    # A part behind the row's end, or before its window, is empty.
    mean = mean / tl.maximum(total, 1e-30)[:, None]
    if WHOLE:
        places = heads.to(tl.int64)[:, None] * WIDTH + d[None, :]
        tl.store(out_ptr + places, mean.to(out_ptr.dtype.element_ty), mask=real)
    else:
        parts = part * tl.num_programs(0) * KV_HEADS * GROUP + heads
        tl.store(out_ptr + parts.to(tl.int64)[:, None] * WIDTH + d[None, :], mean, mask=real)
        tl.store(peaks_ptr + parts, peak, mask=g < GROUP)
        tl.store(sums_ptr + parts, total, mask=g < GROUP)
