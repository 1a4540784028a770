"""Keys and values of the rows being sampled, and of rows that were: what a new prompt can start from.

The cache is an `attend` function, so the decoder that trains is the decoder that samples. It has slots of
equal capacity; rows that are being sampled fill the first slots without a gap, so a step reads them as one
slice. The slots behind still hold what was sampled there: a prompt that begins like one of them (the next
turn of a conversation, another sample of the same prompt) copies that part instead of computing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rung.kernels import invariant, native
from rung.kernels.attention import masked_attention, one_query_attention, packed_attention
from rung.models.decoder import Attend, Decoder

GRAIN = 64  # capacities and the keys a step reads are multiples of this, so that shapes repeat


@dataclass(frozen=True)
class Segment:
    """Tokens that are computed in one forward for a slot: those from `start` to `stop` of its row."""

    slot: int
    start: int
    stop: int


class Cache:
    """Keys and values, `[slots, K, T, d]` a layer, and the tokens each slot holds them of.

    T follows the longest row: a product over a slice of longer rows costs a CPU a copy of all of them.
    """

    def __init__(self, model: Decoder, slots: int):
        c, weight = model.config, model.head_weight
        self.keys, self.values = (
            [weight.new_empty(slots, c.kv_heads, 0, c.head_width) for _ in range(c.layers)] for _ in range(2)
        )
        self.held: list[np.ndarray] = [np.empty(0, np.int32)] * slots

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def fit(self, longest: int) -> None:
        """Room for rows of `longest` tokens. What is twice too long is cut, and what was held there forgotten."""
        capacity = _grained(longest)
        if not self.capacity < capacity and not 2 * capacity <= self.capacity:
            return
        for stored in (self.keys, self.values):
            for layer, x in enumerate(stored):
                stored[layer] = F.pad(x, (0, 0, 0, capacity - x.shape[2]))
        self.held = [held[:capacity] for held in self.held]

    def longest_match(self, token_ids: np.ndarray) -> tuple[int, int]:
        return longest_match(self.held, token_ids)

    def copy(self, source: int, target: int, tokens: int) -> None:
        if source != target and tokens:
            for x in (*self.keys, *self.values):
                x[target, :, :tokens] = x[source, :, :tokens]
        self.held[target] = self.held[source][:tokens]

    def swap(self, first: int, second: int, tokens: int) -> None:
        """Exchange two slots, of which neither holds more than `tokens`."""
        if first == second:
            return
        for x in (*self.keys, *self.values):
            kept = x[first, :, :tokens].clone()
            x[first, :, :tokens] = x[second, :, :tokens]
            x[second, :, :tokens] = kept
        self.held[first], self.held[second] = self.held[second], self.held[first]

    def attend(self, lengths: Sequence[int], fresh: Sequence[Segment], *, batch_invariant: bool) -> Attend:
        """One new token for each of the first slots, whose lengths so far are given, then fresh segments."""
        device, count = self.keys[0].device, len(lengths)
        slots = torch.arange(count, device=device)
        lengths_B = torch.tensor(lengths, dtype=torch.long, device=device)
        # A CPU's products want whole tensors; the other ways are as quick over a part of one.
        parts_do = batch_invariant or device.type != "cpu"
        longest = _grained(max(lengths, default=0) + 1) if parts_do else self.capacity
        ages_BT = lengths_B[:, None] - torch.arange(longest, device=device)
        whole_prompts = bool(fresh) and not batch_invariant and all(segment.start == 0 for segment in fresh)
        masks: dict[int | None, Tensor] = {}
        mask_dtype = torch.float32 if device.type == "cpu" else self.keys[0].dtype

        def mask(window: int | None) -> Tensor:
            if window not in masks:
                seen = (ages_BT >= 0) if window is None else (ages_BT >= 0) & (ages_BT < window)
                masks[window] = seen if batch_invariant else _additive(seen, mask_dtype)[:, None, None]
            return masks[window]

        def attend(layer, q_NHd, k_NKd, v_NKd, *, scale, window, softcap):
            keys, values = self.keys[layer], self.values[layer]
            parts = []
            if count and not batch_invariant and native.can_attend(q_NHd, k_NKd, v_NKd):
                q, k, v = q_NHd[:count], k_NKd[:count], v_NKd[:count]
                parts.append(
                    native.attend_step(
                        q, k, v, keys, values, lengths_B, scale=scale, window=window, softcap=softcap
                    )
                )
            elif count:
                keys[slots, :, lengths_B] = k_NKd[:count]
                values[slots, :, lengths_B] = v_NKd[:count]
                k, v = keys[:count, :, :longest], values[:count, :, :longest]
                q = q_NHd[:count].unflatten(1, (k.shape[1], -1))
                if batch_invariant:
                    visible = mask(window)[:, None].expand(-1, q.shape[2], -1)
                    out = invariant.attention(q, k, v, visible, scale, softcap)
                elif device.type == "cpu" or softcap is not None:
                    out = one_query_attention(q, k, v, mask(window), scale, softcap)
                else:
                    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask(window), scale=scale)
                parts.append(out.flatten(1, 2))
            sizes = [segment.stop - segment.start for segment in fresh]
            rest = [x[count:].split(sizes) for x in (q_NHd, k_NKd, v_NKd)]
            for segment, _, k, v in zip(fresh, *rest, strict=True):
                keys[segment.slot, :, segment.start : segment.stop] = k.transpose(0, 1)
                values[segment.slot, :, segment.start : segment.stop] = v.transpose(0, 1)
            if whole_prompts:  # by the trainer's own kernel, so that the two agree in half precision too
                q, k, v = (x[count:] for x in (q_NHd, k_NKd, v_NKd))
                parts.append(
                    packed_attention(q, k, v, tuple(sizes), scale=scale, window=window, softcap=softcap)
                )
                return torch.cat(parts) if len(parts) != 1 else parts[0]
            for segment, q in zip(fresh, rest[0], strict=True):
                seen_k, seen_v = (x[segment.slot, :, : segment.stop].transpose(0, 1) for x in (keys, values))
                if batch_invariant:
                    out = invariant.document_attention(q, seen_k, seen_v, scale, window, softcap)
                else:
                    out = continued_attention(q, seen_k, seen_v, scale, window, softcap)
                parts.append(out)
            return torch.cat(parts) if len(parts) != 1 else parts[0]

        return attend


def continued_attention(q_SHd, k_TKd, v_TKd, scale, window, softcap) -> Tensor:
    """Causal attention of a row's last S tokens to all T of it."""
    queries, keys = len(q_SHd), len(k_TKd)
    q = q_SHd.unflatten(1, (k_TKd.shape[1], -1)).permute(1, 2, 0, 3)[None]  # [1, K, G, S, d]
    k, v = (x.transpose(0, 1)[None, :, None] for x in (k_TKd, v_TKd))
    age = torch.arange(keys - queries, keys, device=q.device)[:, None] - torch.arange(keys, device=q.device)
    seen = (age >= 0) if window is None else (age >= 0) & (age < window)
    out = masked_attention(q, k, v, seen, scale, softcap)
    return out[0].permute(2, 0, 1, 3).flatten(1, 2)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


def _grained(tokens: int) -> int:
    return -(-tokens // GRAIN) * GRAIN


def longest_match(held: Sequence[np.ndarray], token_ids: np.ndarray) -> tuple[int, int]:
    """`(slot, how many)`: the slot that holds the longest beginning of these tokens."""
    lengths = [_common(one, token_ids) for one in held]
    slot = int(np.argmax(lengths))
    return slot, lengths[slot]


def _common(first: np.ndarray, second: np.ndarray) -> int:
    n = min(len(first), len(second))
    same = first[:n] == second[:n]
    return int(n if same.all() else same.argmin())
