"""Batch invariance: the plain definition in float64 for values, equality of bits for neighbours and lengths."""

import pytest
import torch

from rung.kernels.attention import packed_attention
from rung.kernels.invariant import BLOCK, ROWS, attention, document_attention, pad_rows, rows_are_invariant

HEADS, KV_HEADS, WIDTH = 6, 2, 16


def inputs(length, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((length, HEADS, WIDTH), (length, KV_HEADS, WIDTH), (length, KV_HEADS, WIDTH))
    return [(torch.randn(shape, generator=generator) * 2).to(dtype) for shape in shapes]


def definition(q_THd, k_TKd, v_TKd, scale, window, softcap):
    """softmax(scale q k^T) v, written with repeated heads and a whole mask, in float64."""
    q, k, v = q_THd.double(), *(x.double().repeat_interleave(HEADS // KV_HEADS, 1) for x in (k_TKd, v_TKd))
    scores = torch.einsum("shd,thd->hst", q, k) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    age = torch.arange(len(k) - len(q), len(k))[:, None] - torch.arange(len(k))
    hidden = (age < 0) if window is None else (age < 0) | (age >= window)
    return torch.einsum("hst,thd->shd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


CASES = [(None, None), (7, None), (None, 2.0), (70, 3.0)]


@pytest.mark.parametrize(("window", "softcap"), CASES)
@pytest.mark.parametrize("length", [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 9])
def test_values_are_those_of_the_definition_and_of_ordinary_attention(length, window, softcap):
    q, k, v = inputs(length)
    out = document_attention(q, k, v, 0.3, window, softcap)
    expected = definition(q, k, v, 0.3, window, softcap)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    ordinary = packed_attention(q, k, v, (length,), scale=0.3, window=window, softcap=softcap)
    torch.testing.assert_close(out, ordinary, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("window", "softcap"), CASES)
def test_gradients_are_those_of_the_definition(window, softcap):
    ours = [x.requires_grad_() for x in inputs(BLOCK + 20, dtype=torch.float64)]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    slope = torch.randn(
        BLOCK + 20, HEADS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    (document_attention(*ours, 0.3, window, softcap) * slope).sum().backward()
    (definition(*theirs, 0.3, window, softcap) * slope).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("window", "softcap"), CASES)
def test_a_query_gets_the_same_bits_alone_in_the_last_rows_and_in_the_whole_document(window, softcap):
    length = 2 * BLOCK + 11
    q, k, v = inputs(length)
    whole = document_attention(q, k, v, 0.3, window, softcap)
    for stop in (1, 17, BLOCK, BLOCK + 1, length):
        for rows in {1, min(stop, 5), stop}:
            part = document_attention(q[stop - rows : stop], k[:stop], v[:stop], 0.3, window, softcap)
            assert torch.equal(part, whole[stop - rows : stop]), (stop, rows)


@pytest.mark.parametrize(("window", "softcap"), CASES)
def test_a_decoding_step_of_many_rows_gives_each_the_bits_of_its_own_document(window, softcap):
    """Rows of a cache: ragged, with rubbish behind their ends, in batches of any size and key length."""
    lengths = [1, 3, 40, BLOCK, BLOCK + 1, 130]
    documents = [inputs(n, seed) for seed, n in enumerate(lengths)]
    expected = [document_attention(q, k, v, 0.3, window, softcap)[-1] for q, k, v in documents]
    groups = HEADS // KV_HEADS
    for capacity in (192, 320):
        for chosen in (range(6), [4], [0, 5], [2, 3, 4]):
            k, v = (torch.full((len(chosen), KV_HEADS, capacity, WIDTH), 9.0) for _ in range(2))
            visible = torch.zeros(len(chosen), groups, capacity, dtype=torch.bool)
            q = torch.stack([documents[i][0][-1] for i in chosen]).unflatten(1, (KV_HEADS, groups))
            for place, i in enumerate(chosen):
                k[place, :, : lengths[i]] = documents[i][1].transpose(0, 1)
                v[place, :, : lengths[i]] = documents[i][2].transpose(0, 1)
                visible[place, :, : lengths[i]] = True
                if window is not None:
                    visible[place, :, : max(lengths[i] - window, 0)] = False
            out = attention(q, k, v, visible, 0.3, softcap).flatten(1, 2)
            for place, i in enumerate(chosen):
                assert torch.equal(out[place], expected[i]), (capacity, i)


def test_padding_makes_multiples_and_changes_no_row():
    for n in (1, ROWS - 1, ROWS, ROWS + 1):
        for x in (torch.arange(1, n + 1), torch.randn(n, 3), torch.randn(n, 2, 3)):
            padded = pad_rows(x)
            assert len(padded) % ROWS == 0 and len(padded) - n < ROWS
            assert torch.equal(padded[:n], x) and not padded[n:].any()


def test_products_of_this_machine_are_invariant_in_float32_and_one_that_is_not_is_noticed(monkeypatch):
    weight_OD = torch.randn(97, 48, generator=torch.Generator().manual_seed(0))
    assert rows_are_invariant(weight_OD)
    import rung.kernels.invariant as module

    real = module.F.linear
    monkeypatch.setattr(
        module.F,
        "linear",
        lambda x, w: real(x, w) if len(x) != 3 * ROWS else real(x.double(), w.double()).float(),
    )
    assert not rows_are_invariant(weight_OD)
