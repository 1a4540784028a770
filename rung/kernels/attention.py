"""Causal attention over documents laid end to end: block-diagonal, no padding, no mask tensor.

A document's rows are attended on their own, so what stands in another document cannot reach them, not
even through rounding. On CUDA in half precision all documents go through one variable-length flash kernel,
on a CPU with a compiler through our own (native.py). Elsewhere `BlockCausal` computes them in blocks of
queries and skips the half of the square that causality forbids. Each way keeps nothing but its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from rung.kernels import native

Span = tuple[int, int]
SCORES = 2**18  # of a block of queries, over all documents and heads computed together
LONG = 768  # keys of a document from which on matrix products over blocks are quicker than our own kernel
BLOCK = 64  # queries at a time: measured best from 64 to 512 tokens; the scores of a block stay in cache


def packed_attention(
    q_NHd: Tensor,
    k_NKd: Tensor,
    v_NKd: Tensor,
    lengths: tuple[int, ...],
    parents: tuple[int, ...] = (),
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """softmax(scale q k^T + causal) v inside each document, `[N, H, d]`; softmax in float32.

    `parents[i]` is the document that document i continues, seen whole by all of i, or -1.
    `window`: a token sees itself and the window - 1 tokens before it. `softcap`: c tanh(score / c).
    """
    if q_NHd.is_cuda and softcap is None and q_NHd.dtype in (torch.bfloat16, torch.float16):
        return _varlen(q_NHd, k_NKd, v_NKd, lengths, parents, scale, window)
    return BlockCausal.apply(q_NHd, k_NKd, v_NKd, document_spans(lengths, parents), scale, window, softcap)


def _varlen(q_NHd, k_NKd, v_NKd, lengths, parents, scale, window) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    device, key_lengths = q_NHd.device, lengths
    if parents:
        spans = document_spans(lengths, parents)
        seen = torch.cat([torch.cat([torch.arange(*trunk), torch.arange(*own)]) for own, trunk in spans])
        k_NKd, v_NKd = k_NKd[seen.to(device)], v_NKd[seen.to(device)]
        key_lengths = tuple(own[1] - own[0] + trunk[1] - trunk[0] for own, trunk in spans)
    ends_q = torch.tensor((0, *lengths), device=device).cumsum(0, dtype=torch.int32)
    ends_k = torch.tensor((0, *key_lengths), device=device).cumsum(0, dtype=torch.int32)
    left = -1 if window is None else window - 1
    out_NHd = varlen_attn(
        q_NHd, k_NKd, v_NKd, ends_q, ends_k, max(lengths), max(key_lengths),
        scale=scale, window_size=(left, 0), enable_gqa=q_NHd.shape[1] != k_NKd.shape[1],
    )  # fmt: skip
    assert isinstance(out_NHd, Tensor)  # a tuple only where auxiliary outputs are asked for
    return out_NHd


class BlockCausal(torch.autograd.Function):
    """Forward and backward of attention, one block of queries at a time, documents of one shape together.

    The G query heads that share a key-value head are stacked as G times as many queries, so keys and
    values are never repeated and their gradients are summed inside a matrix product. Backward recomputes
    the probabilities: with P = softmax(S), dV = P^T dO, dP = dO V^T, dS = P (dP - sum dP P).
    A branch's keys are its trunk's and then its own.
    """

    @staticmethod
    def forward(ctx, q_NHd, k_NKd, v_NKd, spans, scale, window, softcap):
        ctx.save_for_backward(q_NHd, k_NKd, v_NKd)
        ctx.options = (spans, scale, window, softcap)
        if native.longest(spans) < LONG and native.can_attend(q_NHd, k_NKd, v_NKd):
            return native.attend_documents(
                q_NHd, k_NKd, v_NKd, spans, scale=scale, window=window, softcap=softcap
            )
        out_NHd = torch.empty_like(q_NHd)
        for alike in _alike(spans, q_NHd):
            q_nSHd = alike.own_of(q_NHd)
            k_Mtd, v_Mtd = (_heads_first(alike.seen_of(x)) for x in (k_NKd, v_NKd))
            out_nSHd = torch.empty_like(q_nSHd)
            for rows, keys in _blocks(alike.queries, alike.keys, window):
                q_MSd = _stack(q_nSHd[:, rows], k_NKd.shape[1])
                p_MSt = _probabilities(q_MSd, k_Mtd[:, keys], rows, keys, scale, window, softcap)[0]
                out_nSHd[:, rows] = _unstack(p_MSt.to(v_Mtd.dtype) @ v_Mtd[:, keys], out_nSHd[:, rows])
            alike.put(out_NHd, out_nSHd)
        return out_NHd

    @staticmethod
    def backward(ctx, grad_NHd):
        q_NHd, k_NKd, v_NKd = ctx.saved_tensors
        spans, scale, window, softcap = ctx.options
        if native.longest(spans) < LONG and native.can_attend(q_NHd, k_NKd, v_NKd):
            grads = native.attend_documents_backward(
                q_NHd, k_NKd, v_NKd, grad_NHd.contiguous(), spans, scale=scale, window=window, softcap=softcap
            )
            return *grads, None, None, None, None
        dq_NHd = torch.empty_like(q_NHd)
        # Keys and values collect from several blocks of queries: in float32, rounded once.
        wide = torch.float32 if q_NHd.dtype in (torch.bfloat16, torch.float16) else q_NHd.dtype
        dk_NKd, dv_NKd = torch.zeros_like(k_NKd, dtype=wide), torch.zeros_like(v_NKd, dtype=wide)
        for alike in _alike(spans, q_NHd):
            q_nSHd, grad_nSHd = alike.own_of(q_NHd), alike.own_of(grad_NHd)
            k_Mtd, v_Mtd = (_heads_first(alike.seen_of(x)) for x in (k_NKd, v_NKd))
            dq_nSHd = torch.empty_like(q_nSHd)
            dk_Mtd, dv_Mtd = torch.zeros_like(k_Mtd, dtype=wide), torch.zeros_like(v_Mtd, dtype=wide)
            for rows, keys in _blocks(alike.queries, alike.keys, window):
                q_MSd, grad_MSd = (_stack(x[:, rows], k_NKd.shape[1]) for x in (q_nSHd, grad_nSHd))
                p_MSt, slope = _probabilities(q_MSd, k_Mtd[:, keys], rows, keys, scale, window, softcap)
                dp_MSt = (grad_MSd @ v_Mtd[:, keys].transpose(1, 2)).to(p_MSt.dtype)
                ds_MSt = torch._softmax_backward_data(dp_MSt, p_MSt, -1, p_MSt.dtype)
                if slope is not None:
                    ds_MSt = ds_MSt * slope
                ds_MSt = ds_MSt.mul_(scale).to(q_MSd.dtype)
                dq_nSHd[:, rows] = _unstack(ds_MSt @ k_Mtd[:, keys], dq_nSHd[:, rows])
                dk_Mtd[:, keys] += ds_MSt.transpose(1, 2) @ q_MSd
                dv_Mtd[:, keys] += p_MSt.to(v_Mtd.dtype).transpose(1, 2) @ grad_MSd
            alike.put(dq_NHd, dq_nSHd)
            for whole_NKd, part_Mtd in ((dk_NKd, dk_Mtd), (dv_NKd, dv_Mtd)):
                alike.add_seen(whole_NKd, part_Mtd.unflatten(0, (-1, k_NKd.shape[1])).transpose(1, 2))
        return dq_NHd, dk_NKd.to(k_NKd.dtype), dv_NKd.to(v_NKd.dtype), None, None, None, None


@dataclass(frozen=True)
class Alike:
    """Documents with as many tokens each and trunks of one length: n of them, computed as one batch."""

    spans: list[tuple[Span, Span]]

    @property
    def queries(self) -> int:
        return self.spans[0][0][1] - self.spans[0][0][0]

    @property
    def keys(self) -> int:
        return self.queries + self.spans[0][1][1] - self.spans[0][1][0]

    def own_of(self, x_NHd: Tensor) -> Tensor:
        """`[n, S, H, d]`; of a single document it is a view."""
        if len(self.spans) == 1:
            return x_NHd[slice(*self.spans[0][0])][None]
        return torch.stack([x_NHd[slice(*own)] for own, _ in self.spans])

    def seen_of(self, x_NKd: Tensor) -> Tensor:
        """What each attends to, its trunk and itself, `[n, t, K, d]`."""
        if self.keys == self.queries:
            return self.own_of(x_NKd)
        parts = [torch.cat([x_NKd[slice(*trunk)], x_NKd[slice(*own)]]) for own, trunk in self.spans]
        return torch.stack(parts)

    def put(self, x_NHd: Tensor, values_nSHd: Tensor) -> None:
        for (own, _), values_SHd in zip(self.spans, values_nSHd, strict=True):
            x_NHd[slice(*own)] = values_SHd

    def add_seen(self, x_NKd: Tensor, values_ntKd: Tensor) -> None:
        for (own, trunk), values_tKd in zip(self.spans, values_ntKd, strict=True):
            if self.keys > self.queries:
                x_NKd[slice(*trunk)] += values_tKd[: -self.queries]
            x_NKd[slice(*own)] += values_tKd[-self.queries :]


def _alike(spans: list[tuple[Span, Span]], q_NHd: Tensor) -> Iterator[Alike]:
    """Documents by shape; as many at once as keep the scores of a block in the cache."""
    shapes: dict[tuple[int, int], list[tuple[Span, Span]]] = {}
    for own, trunk in spans:
        shapes.setdefault((own[1] - own[0], trunk[1] - trunk[0]), []).append((own, trunk))
    for (queries, shared), members in shapes.items():
        scores = q_NHd.shape[1] * min(queries, BLOCK) * (queries + shared)
        count = max(SCORES // max(scores, 1), 1)
        for start in range(0, len(members), count):
            yield Alike(members[start : start + count])


def document_spans(lengths: tuple[int, ...], parents: tuple[int, ...]) -> list[tuple[Span, Span]]:
    """`(own, trunk)` of each document as `(from, to)` among the N tokens; the trunk is empty if it has none."""
    ends = [0, *accumulate(lengths)]
    own = list(pairwise(ends))
    return [(span, own[parents[i]] if parents and parents[i] >= 0 else (0, 0)) for i, span in enumerate(own)]


def _blocks(queries: int, keys: int, window: int | None):
    """`(rows, keys)`: each block of queries, and the keys any of them can see. The last query sees the last key."""
    before = keys - queries
    for start in range(0, queries, BLOCK):
        stop = min(start + BLOCK, queries)
        first = 0 if window is None else max(before + start - window + 1, 0)
        yield slice(start, stop), slice(first, before + stop)


def _heads_first(x_ntKd: Tensor) -> Tensor:
    """`[n, t, K, d]` -> `[n K, t, d]`"""
    return x_ntKd.transpose(1, 2).flatten(0, 1)


def _stack(q_nSHd: Tensor, kv_heads: int) -> Tensor:
    """`[n, S, H, d]` -> `[n K, G S, d]`, the heads of a group after one another."""
    q_nKGSd = q_nSHd.unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4)
    return q_nKGSd.reshape(len(q_nSHd) * kv_heads, -1, q_nSHd.shape[3])


def _unstack(x_MSd: Tensor, like_nSHd: Tensor) -> Tensor:
    documents, queries = like_nSHd.shape[:2]
    x_nKGSd = x_MSd.unflatten(0, (documents, -1)).unflatten(2, (-1, queries))
    return x_nKGSd.permute(0, 3, 1, 2, 4).flatten(2, 3)


def _probabilities(q_MSd, k_Mtd, rows, keys, scale, window, softcap):
    """softmax of the block's scores in float32, and the slope of the softcap at them, if there is one."""
    scores = q_MSd @ k_Mtd.transpose(1, 2)
    scores = (scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores).mul_(scale)
    slope = None
    if softcap is not None:
        squashed = torch.tanh(scores / softcap)
        scores, slope = softcap * squashed, 1 - squashed.square()
    first = keys.stop - (rows.stop - rows.start)  # the block's last query stands at its last key
    query_S = torch.arange(first, keys.stop, device=scores.device)[:, None]
    if window is None:  # only the diagonal square of the block hides anything
        key_t, part = query_S.T, scores[..., first - keys.start :]
    else:
        key_t, part = torch.arange(keys.start, keys.stop, device=scores.device), scores
    hidden = key_t > query_S
    if window is not None:
        hidden |= key_t <= query_S - window
    part.unflatten(1, (-1, len(query_S))).masked_fill_(hidden, -torch.inf)
    return torch.softmax(scores, -1), slope


def one_query_attention(
    q_BKGd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor, mask_B11T: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """One query a row and head, as sampling asks: two batched products and a softmax in float32.

    The mask is added: 0 where a key is seen, -inf where not. Keys and values should be contiguous: a CPU's products copy
    what is not, which costs more than they do.
    """
    scores = torch.bmm(q_BKGd.flatten(0, 1), k_BKTd.flatten(0, 1).transpose(1, 2))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    p_BKGT = torch.softmax(scores.unflatten(0, k_BKTd.shape[:2]).add_(mask_B11T), -1).to(v_BKTd.dtype)
    return torch.bmm(p_BKGT.flatten(0, 1), v_BKTd.flatten(0, 1)).unflatten(0, k_BKTd.shape[:2])


def masked_attention(q_BHSd, k_BHTd, v_BHTd, mask_BHST, scale: float, softcap: float | None) -> Tensor:
    """The plain definition, with softmax in float32: for any mask."""
    scores = q_BHSd @ k_BHTd.transpose(-1, -2)
    scores = (scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return scores.masked_fill(~mask_BHST, -torch.inf).softmax(-1).to(v_BHTd.dtype) @ v_BHTd
