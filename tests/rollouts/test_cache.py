"""The cache: what it finds, copies, swaps and cuts, and attention through it against the plain one."""

import numpy as np
import pytest
import torch
from decoder_case import opened, reference, tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.kernels.attention import packed_attention
from rung.rollouts.cache import GRAIN, Cache, Segment


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return opened(reference("llama"), tmp_path_factory.mktemp("llama"))


def ids(*values):
    return np.array(values, np.int32)


def filled(decoder, slots=4, capacity=GRAIN):
    """Every number of a slot is the slot's own, so that a wrong copy shows."""
    cache = Cache(decoder, slots)
    cache.fit(capacity)
    for keys, values in zip(cache.keys, cache.values, strict=True):
        for slot in range(slots):
            keys[slot] = slot + torch.arange(cache.capacity)[:, None] / 1000
            values[slot] = -keys[slot]
    return cache


def everything(stored):
    return torch.stack(stored)


def test_room_comes_in_grains_and_growing_keeps_what_is_held(decoder):
    cache = filled(decoder, capacity=1)
    assert cache.capacity == GRAIN
    before = everything(cache.keys)
    cache.held[2] = ids(1, 2)
    cache.fit(GRAIN)
    assert cache.capacity == GRAIN
    cache.fit(GRAIN + 1)
    assert cache.capacity == 2 * GRAIN and torch.equal(everything(cache.keys)[:, :, :, :GRAIN], before)
    assert cache.held[2].tolist() == [1, 2]
    assert torch.equal(everything(cache.values)[:, :, :, :GRAIN], -before)


def test_room_twice_too_long_is_cut_and_what_was_held_there_forgotten(decoder):
    cache = filled(decoder, capacity=3 * GRAIN)
    before = everything(cache.keys)
    cache.held[1] = np.arange(GRAIN + 5, dtype=np.int32)
    cache.fit(2 * GRAIN)
    assert cache.capacity == 3 * GRAIN, "a little too long is left alone"
    cache.fit(GRAIN)
    assert cache.capacity == GRAIN and torch.equal(everything(cache.keys), before[:, :, :, :GRAIN])
    assert cache.held[1].tolist() == list(range(GRAIN))


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5),
    st.lists(st.integers(0, 2), max_size=6),
)
@settings(max_examples=200)
def test_the_longest_beginning_is_found(held, wanted):
    cache = Cache.__new__(Cache)
    cache.held = [ids(*row) for row in held]
    slot, length = cache.longest_match(ids(*wanted))
    shared = [
        next((n for n in range(99) if n >= min(len(r), len(wanted)) or r[n] != wanted[n]), 0) for r in held
    ]
    assert length == max(shared) == shared[slot]


def test_copies_take_the_beginning_only_and_swaps_exchange_two_rows(decoder):
    cache = filled(decoder)
    cache.held = [ids(5, 6, 7), ids(), ids(8), ids(9, 9)]
    old = everything(cache.keys)
    cache.copy(0, 2, 2)
    assert cache.held[2].tolist() == [5, 6] and cache.held[0].tolist() == [5, 6, 7]
    assert torch.equal(everything(cache.keys)[:, 2, :, :2], old[:, 0, :, :2])
    assert torch.equal(everything(cache.keys)[:, 2, :, 2:], old[:, 2, :, 2:])
    assert torch.equal(everything(cache.values), -everything(cache.keys))
    cache.copy(3, 3, 1)
    assert cache.held[3].tolist() == [9]
    cache.swap(0, 1, 3)
    assert [row.tolist() for row in cache.held] == [[], [5, 6, 7], [5, 6], [9]]
    assert torch.equal(everything(cache.keys)[:, 1, :, :3], old[:, 0, :, :3])
    assert torch.equal(everything(cache.keys)[:, 0, :, :3], old[:, 1, :, :3])
    assert torch.equal(everything(cache.values), -everything(cache.keys))


@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (5, None), (None, 2.0), (9, 2.0)])
def test_attention_through_the_cache_is_that_of_whole_documents(window, softcap, invariant, decoder):
    """Two rows decode, one continues after 20 of its tokens, one is new, in one call, rubbish in the cache."""
    c, lengths = decoder.config, [30, 12, 26, 7]
    starts = [29, 11, 20, 0]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        [torch.randn(n, heads, c.head_width, generator=generator) for n in lengths]
        for heads in (c.heads, c.kv_heads, c.kv_heads)
    )
    options = dict(scale=0.3, window=window, softcap=softcap)
    cache = filled(decoder)
    for slot, start in enumerate(starts):
        cache.keys[1][slot, :, :start] = k[slot][:start].transpose(0, 1)
        cache.values[1][slot, :, :start] = v[slot][:start].transpose(0, 1)
    fresh = [Segment(2, 20, 26), Segment(3, 0, 7)]
    attend = cache.attend(starts[:2], fresh, batch_invariant=invariant)
    new = [torch.cat([x[s:] for x, s in zip(part, starts, strict=True)]) for part in (q, k, v)]
    out = attend(1, *new, **options)
    expected = torch.cat([
        packed_attention(q[i], k[i], v[i], (lengths[i],), **options)[starts[i] :] for i in range(4)
    ])  # fmt: skip
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for slot, n in enumerate(lengths):
        assert torch.equal(cache.keys[1][slot, :, :n], k[slot].transpose(0, 1)), "and remembered"
        assert torch.equal(cache.values[1][slot, :, :n], v[slot].transpose(0, 1))
        assert torch.equal(cache.keys[0][slot], filled(decoder).keys[0][slot]), "no other layer"


@torch.no_grad()
def test_a_step_at_the_end_of_the_capacity_reads_no_further(decoder):
    cache = Cache(decoder, 1)
    cache.fit(GRAIN)
    text = tokens(GRAIN, 4)
    decoder(
        text[:-1],
        torch.arange(GRAIN - 1),
        cache.attend([], [Segment(0, 0, GRAIN - 1)], batch_invariant=False),
    )
    out = decoder(text[-1:], torch.tensor([GRAIN - 1]), cache.attend([GRAIN - 1], [], batch_invariant=False))
    from decoder_case import packed

    torch.testing.assert_close(out.states_ND, packed(decoder, [text])[-1:], rtol=1e-4, atol=1e-4)
