"""Batch invariance: numbers of a token that do not depend on what else is computed beside it, to the bit.

A sampler and a trainer that share weights still disagree in the last bits, because a matrix product picks its
order of summation by the number of its rows, and a softmax by the number of its keys. Two rules remove both:

- rows come in multiples of ROWS. Above a dozen rows the products of this machine's libraries sum every row
  in one order, whatever its neighbours (`rows_are_invariant` checks that, since no library promises it);
- attention walks over keys in blocks of BLOCK from the first key on, with a running softmax, so a key that
  is not there yet and one that is masked away are the same exact zero.

It costs the half of the square that causality would have saved; it is for tests and for exact science.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 16
BLOCK = 64


def pad_rows(x_N: Tensor) -> Tensor:
    """Zero rows at the end, up to a multiple of ROWS."""
    missing = -len(x_N) % ROWS
    return x_N if missing == 0 else F.pad(x_N, (0, 0) * (x_N.ndim - 1) + (0, missing))


def attention(
    q_BKRd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor, visible_BRT: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """softmax(scale q k^T) v over the visible keys, `[B, K, R, d]`; R queries share a key-value head.

    `visible_BRT` is boolean; every query sees at least one key. T may be any length.
    """
    queries, keys = q_BKRd.shape[2], k_BKTd.shape[2]
    q_BKRd = F.pad(q_BKRd, (0, 0, 0, -queries % ROWS))
    visible_BRT = F.pad(visible_BRT, (0, -keys % BLOCK, 0, -queries % ROWS))
    wide = torch.promote_types(q_BKRd.dtype, torch.float32)
    shape = (*q_BKRd.shape[:3], 1)
    peak = torch.full(shape, -torch.inf, dtype=wide, device=q_BKRd.device)
    total, out_BKRd = torch.zeros_like(peak), torch.zeros_like(q_BKRd, dtype=wide)
    for start in range(0, keys, BLOCK):
        k_BKtd, v_BKtd = (_block(x, start) for x in (k_BKTd, v_BKTd))
        scores = _products(q_BKRd, k_BKtd.transpose(2, 3)).to(wide) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(~visible_BRT[:, None, :, start : start + BLOCK], -torch.inf)
        new_peak = torch.maximum(peak, scores.detach().amax(-1, keepdim=True))
        finite = new_peak.masked_fill(new_peak == -torch.inf, 0)
        p, fade = (scores - finite).exp(), (peak - finite).exp()
        total = total * fade + p.sum(-1, keepdim=True)
        out_BKRd = out_BKRd * fade + _products(p.to(v_BKtd.dtype), v_BKtd).to(wide)
        peak = new_peak
    total = total.masked_fill(total == 0, 1)  # the rows of padding saw nothing
    return (out_BKRd / total)[:, :, :queries].to(q_BKRd.dtype)


def _block(x_BKTd: Tensor, start: int) -> Tensor:
    block = x_BKTd[:, :, start : start + BLOCK]
    return F.pad(block, (0, 0, 0, BLOCK - block.shape[2]))


def _products(a: Tensor, b: Tensor) -> Tensor:
    """A batch of products of one shape each; the batch is flattened so that one path is always taken."""
    return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, a.shape[:2])


def document_attention(
    q_SHd: Tensor, k_TKd: Tensor, v_TKd: Tensor, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """Causal attention of one document's last S tokens to all T of it, `[S, H, d]`."""
    queries, keys, kv_heads = len(q_SHd), len(k_TKd), k_TKd.shape[1]
    q_KRd = q_SHd.unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3).flatten(1, 2)
    age_ST = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
    seen_ST = ((age_ST >= 0) if window is None else (age_ST >= 0) & (age_ST < window)).to(q_SHd.device)
    groups = q_SHd.shape[1] // kv_heads
    out_BKRd = attention(
        q_KRd[None], k_TKd.transpose(0, 1)[None], v_TKd.transpose(0, 1)[None],
        seen_ST.repeat(groups, 1)[None], scale, softcap,
    )  # fmt: skip
    return out_BKRd[0].unflatten(1, (groups, queries)).permute(2, 0, 1, 3).flatten(1, 2)


@torch.no_grad()
def rows_are_invariant(weight_OD: Tensor) -> bool:
    """Whether products with this weight give a row the same bits in batches of every padded size."""
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(8 * ROWS, weight_OD.shape[1], generator=generator).to(weight_OD)
    whole = F.linear(x_ND, weight_OD)
    return all(
        torch.equal(F.linear(x_ND[start : start + n], weight_OD), whole[start : start + n])
        for n in range(ROWS, len(x_ND), ROWS)
        for start in (0, len(x_ND) - n, 1)
    )
