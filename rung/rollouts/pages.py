"""Keys and values in pages: the cache that the engine keeps on a GPU.

A slot is a list of pages of one pool, so memory follows what rows really hold, and rows that begin alike share their
pages: a prompt of which many samples are drawn lies in memory once (arXiv 2309.06180). Who writes into a page that
others use copies it first. Nothing is moved when a row ends or when two slots change places; only lists are.

It answers what `cache.Cache` answers, and the same row comes to the same tokens through either. On a CPU that one is
quicker: its products want a row's keys side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rung.kernels.attention import packed_attention
from rung.kernels.paged_attention import gathered, paged_attention
from rung.models.decoder import Attend, Decoder
from rung.rollouts.cache import Segment, continued_attention, longest_match

PAGE = 64  # tokens
SPARE = 0  # a page that belongs to nobody: rows that only fill up a batch write there


class PagedCache:
    """A pool of pages a layer, `[P, K, PAGE, d]`, and for each slot its pages and the tokens they hold."""

    def __init__(self, model: Decoder, slots: int):
        c, weight = model.config, model.head_weight
        one = (SPARE + 1, c.kv_heads, PAGE, c.head_width)
        self.keys, self.values = ([weight.new_zeros(one) for _ in range(c.layers)] for _ in range(2))
        self.tables: list[list[int]] = [[] for _ in range(slots)]
        self.held: list[np.ndarray] = [np.empty(0, np.int32)] * slots
        self.users = [1]  # of each page; the spare one is never given out
        self.free: list[int] = []

    def fit(self, longest: int) -> None:
        """Pages come as they are written: there is nothing to make room for."""

    def longest_match(self, token_ids: np.ndarray) -> tuple[int, int]:
        return longest_match(self.held, token_ids)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """The target's row begins as the source's; pages are shared, and freed where nobody uses them any more."""
        shared = self.tables[source][: -(-tokens // PAGE)]
        for page in shared:
            self.users[page] += 1
        for page in self.tables[target]:
            self._drop(page)
        self.tables[target], self.held[target] = shared, self.held[source][:tokens]

    def swap(self, first: int, second: int, tokens: int) -> None:
        """Exchange two slots."""
        tables, held = self.tables, self.held
        tables[first], tables[second] = tables[second], tables[first]
        held[first], held[second] = held[second], held[first]

    # -- pages ---------------------------------------------------------------------------------------------

    def make_writable(self, spans: Sequence[Segment]) -> None:
        """Give each slot pages of its own wherever it is about to write."""
        moved: list[tuple[int, int]] = []
        for span in spans:
            table, first = self.tables[span.slot], span.start // PAGE
            if first < len(table) and self.users[table[first]] > 1:
                page = self._take()
                moved.append((table[first], page))
                self._drop(table[first])
                table[first] = page
            while len(table) * PAGE < span.stop:
                table.append(self._take())
        if moved:
            old, new = torch.tensor(moved, device=self.keys[0].device).T
            for pool in (*self.keys, *self.values):
                pool[new] = pool[old]

    def _take(self) -> int:
        if not self.free:
            self._grow()
        page = self.free.pop()
        self.users[page] = 1
        return page

    def _drop(self, page: int) -> None:
        self.users[page] -= 1
        if not self.users[page]:
            self.free.append(page)

    def _grow(self) -> None:
        """Twice as many pages, two for each slot at first. No row can need more than it has tokens for."""
        before = len(self.users)
        more = max(before, 2 * len(self.tables))
        for stored in (self.keys, self.values):
            for layer, pool in enumerate(stored):
                stored[layer] = torch.cat([pool, pool.new_zeros(more, *pool.shape[1:])])
        self.users += [0] * more
        self.free += range(before + more - 1, before - 1, -1)

    def table_of(self, slots: int, width: int = 0) -> Tensor:
        """`[slots, M]`, int32: the pages of the first slots; M is that of the longest, or `width`."""
        width = width or max(map(len, self.tables[:slots]))
        table_BM = np.full((slots, width), SPARE, np.int32)
        for row, pages in zip(table_BM, self.tables[:slots], strict=True):
            row[: len(pages)] = pages
        return torch.from_numpy(table_BM).to(self.keys[0].device)

    # -- attention -----------------------------------------------------------------------------------------

    def attend(self, lengths: Sequence[int], fresh: Sequence[Segment], *, batch_invariant: bool) -> Attend:
        """One new token for each of the first slots, whose lengths so far are given, then fresh segments."""
        assert not batch_invariant, "pages are read in an order that depends on the longest row"
        device, count = self.keys[0].device, len(lengths)
        self.make_writable([*newest(lengths), *fresh])
        decode = self.decoding(self.table_of(count), torch.tensor(lengths, device=device)) if count else None
        whole_prompts = all(segment.start == 0 for segment in fresh)
        sizes = tuple(segment.stop - segment.start for segment in fresh)
        page_N, offset_N = self._places(fresh) if fresh else (None, None)

        def attend(layer, q_NHd, k_NKd, v_NKd, *, scale, window, softcap):
            options = {"scale": scale, "window": window, "softcap": softcap}
            parts = []
            if decode is not None:
                parts.append(decode(layer, q_NHd[:count], k_NKd[:count], v_NKd[:count], **options))
            if not fresh:
                return parts[0]
            q, k, v = (x[count:] for x in (q_NHd, k_NKd, v_NKd))
            self.keys[layer][page_N, :, offset_N] = k
            self.values[layer][page_N, :, offset_N] = v
            if whole_prompts:  # by the trainer's own kernel, so that the two agree in half precision too
                parts.append(packed_attention(q, k, v, sizes, **options))
            else:
                for segment, own_q in zip(fresh, q.split(sizes), strict=True):
                    parts.append(continued_attention(own_q, *self._row(segment, layer), **options))
            return torch.cat(parts) if len(parts) != 1 else parts[0]

        return attend

    def decoding(self, table_BM: Tensor, lengths_B: Tensor) -> Attend:
        """One new token for each row of the table, behind the tokens it has. Tensors only: it can stand in a CUDA graph."""
        page_B = table_BM.gather(1, (lengths_B // PAGE)[:, None])[:, 0]
        offset_B, seen_B = lengths_B % PAGE, lengths_B + 1

        def attend(layer, q_NHd, k_NKd, v_NKd, *, scale, window, softcap):
            keys, values = self.keys[layer], self.values[layer]
            keys[page_B, :, offset_B] = k_NKd
            values[page_B, :, offset_B] = v_NKd
            return paged_attention(
                q_NHd, keys, values, table_BM, seen_B, scale=scale, window=window, softcap=softcap
            )

        return attend

    def _row(self, segment: Segment, layer: int) -> list[Tensor]:
        """Keys and values of a slot's tokens up to the segment's end, `[T, K, d]`."""
        table_1M = torch.tensor([self.tables[segment.slot]], device=self.keys[0].device)
        rows = (gathered(stored[layer], table_1M)[0] for stored in (self.keys, self.values))
        return [row_KTd.transpose(0, 1)[: segment.stop] for row_KTd in rows]

    def _places(self, fresh: Sequence[Segment]) -> tuple[Tensor, Tensor]:
        """The page of each fresh token, and where in it."""
        device = self.keys[0].device
        pages, offsets = [], []
        for segment in fresh:
            positions = np.arange(segment.start, segment.stop)
            pages.append(np.array(self.tables[segment.slot])[positions // PAGE])
            offsets.append(positions % PAGE)
        page_N, offset_N = (torch.from_numpy(np.concatenate(x)).to(device) for x in (pages, offsets))
        return page_N, offset_N


def newest(lengths: Sequence[int]) -> list[Segment]:
    """Where a decoding step writes: behind what each of the first slots has."""
    return [Segment(slot, length, length + 1) for slot, length in enumerate(lengths)]
