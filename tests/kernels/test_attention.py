"""Packed attention against the definition written anew here, one loop per document and head."""

import math

import pytest
import torch

from rung.kernels.attention import BLOCK, masked_attention, packed_attention

RAGGED = (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 2)
OPTIONS = {
    "plain": {},
    "window 1": dict(window=1),
    "window 5": dict(window=5),
    "window of a block": dict(window=BLOCK),
    "window longer than most": dict(window=BLOCK + 3),
    "softcap": dict(softcap=0.7),
    "softcap and window": dict(softcap=2.0, window=9),
}


def definition(q_NHd, k_NKd, v_NKd, lengths, scale, window=None, softcap=None):
    """softmax(softcap(scale q k)) v, every query on its own, over the keys of its document it may see."""
    rows, start = [], 0
    group = q_NHd.shape[1] // k_NKd.shape[1]
    for length in lengths:
        for query in range(length):
            first = 0 if window is None else max(0, query + 1 - window)
            seen = slice(start + first, start + query + 1)
            heads = []
            for head in range(q_NHd.shape[1]):
                scores = scale * (k_NKd[seen, head // group] @ q_NHd[start + query, head])
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                heads.append(torch.softmax(scores, 0) @ v_NKd[seen, head // group])
            rows.append(torch.stack(heads))
        start += length
    return torch.stack(rows)


def inputs(tokens, heads=4, kv_heads=2, width=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        drawn = torch.randn(tokens, count, width, generator=generator, dtype=torch.float64)
        return drawn.to(dtype).requires_grad_()

    return draw(heads), draw(kv_heads), draw(kv_heads)


@pytest.mark.parametrize("name", OPTIONS)
def test_values_and_gradients_are_those_of_the_definition(name):
    ours, theirs = inputs(sum(RAGGED)), inputs(sum(RAGGED))
    out = packed_attention(*ours, RAGGED, scale=0.6, **OPTIONS[name])
    expected = definition(*theirs, RAGGED, 0.6, **OPTIONS[name])
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    direction = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(9))
    out.backward(direction)
    expected.backward(direction)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("options", [{}, dict(window=2, softcap=1.3)], ids=["plain", "window and softcap"])
def test_gradients_are_the_limits_of_differences(heads, kv_heads, options):
    def attention(*qkv):
        return packed_attention(*qkv, (1, 4, 2), scale=0.5, **options)

    assert torch.autograd.gradcheck(attention, inputs(7, heads, kv_heads, width=2))


def test_three_tokens_by_hand():
    """Keys 0, ln 2, ln 4 and queries 1: weights (1), (1, 2) / 3, (1, 2, 4) / 7 over values 1, 10, 100."""
    one = torch.ones(3, 1, 1, dtype=torch.float64)
    k = torch.tensor([0.0, math.log(2), math.log(4)], dtype=torch.float64).reshape(3, 1, 1)
    v = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64).reshape(3, 1, 1)
    whole = packed_attention(one, k, v, (3,), scale=1.0).flatten().tolist()
    assert whole == pytest.approx([1, 21 / 3, 421 / 7])
    # The last token sees itself and one before it: weights (2, 4) / 6.
    windowed = packed_attention(one, k, v, (3,), scale=1.0, window=2).flatten().tolist()
    assert windowed == pytest.approx([1, 7, 420 / 6])
    split = packed_attention(one, k, v, (1, 2), scale=1.0).flatten().tolist()
    assert split == pytest.approx([1, 10, 420 / 6])
    # Twice the scale squares the ratios: weights (1, 4) / 5.
    assert packed_attention(one, k, v, (3,), scale=2.0).flatten().tolist()[1] == pytest.approx(41 / 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIONS)
def test_neighbours_change_no_bit_of_values_or_gradients(name, dtype):
    mine, lengths = slice(70, 70 + BLOCK + 1), (70, BLOCK + 1, 5)

    def run(seed):
        qkv = inputs(sum(lengths), dtype=dtype, seed=0)
        noise = inputs(sum(lengths), dtype=dtype, seed=seed)
        with torch.no_grad():
            for own, other in zip(qkv, noise, strict=True):
                own[:70], own[mine.stop :] = other[:70], other[mine.stop :]
        out = packed_attention(*qkv, lengths, scale=0.6, **OPTIONS[name])
        (out.float() ** 2).sum().backward()
        return [out[mine], *(tensor.grad[mine] for tensor in qkv)]

    assert all(torch.equal(a, b) for a, b in zip(run(1), run(2), strict=True))


@pytest.mark.parametrize("name", OPTIONS)
def test_bf16_errs_by_its_own_rounding_and_no_more(name):
    """Scores and sums are float32: the error stays near one rounding of the output, also over long rows."""
    lengths = (300,)
    narrow = inputs(300, width=16, dtype=torch.bfloat16)
    wide = [tensor.detach().double().requires_grad_() for tensor in narrow]
    out = packed_attention(*narrow, lengths, scale=0.25, **OPTIONS[name])
    exact = packed_attention(*wide, lengths, scale=0.25, **OPTIONS[name])
    assert out.dtype == torch.bfloat16
    assert (out - exact).abs().max() < 2**-7 * exact.abs().max()
    out.backward(torch.ones_like(out))
    exact.backward(torch.ones_like(exact))
    for mine, other in zip(narrow, wide, strict=True):
        assert mine.grad.dtype == torch.bfloat16
        assert (mine.grad - other.grad).norm() <= 2**-6 * other.grad.norm()


def test_scores_of_bf16_are_scaled_and_compared_in_float32():
    """Scores 129 and 130 times 0.9: in bf16 both products round, and their difference becomes 1, not 0.9."""
    q = torch.ones(2, 1, 1, dtype=torch.bfloat16)
    k = torch.tensor([129.0, 130.0], dtype=torch.bfloat16).reshape(2, 1, 1)
    v = torch.tensor([0.0, 1.0], dtype=torch.bfloat16).reshape(2, 1, 1)
    seen = torch.ones(1, 1, 2, 2, dtype=torch.bool).tril()
    batched = [tensor.transpose(0, 1)[None] for tensor in (q, k, v)]
    for out in (packed_attention(q, k, v, (2,), scale=0.9), masked_attention(*batched, seen, 0.9, None)):
        assert out.flatten()[1].item() == pytest.approx(1 / (1 + math.exp(-0.9)), rel=2**-8)


def test_gradients_of_many_blocks_add_up_in_float32():
    """With equal scores token t gives the first value 1 / (t + 1): late, small shares must not be lost."""
    q, k, v = (torch.zeros(40 * BLOCK, 1, 1, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    packed_attention(q, k, v, (40 * BLOCK,), scale=1.0).sum().backward()
    harmonic = sum(1 / t for t in range(1, 40 * BLOCK + 1))
    assert v.grad[0].item() == pytest.approx(harmonic, rel=2**-8)


def test_large_scores_do_not_overflow():
    q, k, v = (tensor.detach() * 1e4 for tensor in inputs(5, dtype=torch.float32))
    assert packed_attention(q, k, v, (5,), scale=1.0).isfinite().all()


def test_nothing_but_the_inputs_is_kept_for_backward():
    kept = []
    qkv = inputs(200)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        packed_attention(*qkv, (200,), scale=1.0, softcap=1.0, window=50)
    assert sum(t.numel() for t in kept) == sum(t.numel() for t in qkv)


@pytest.mark.parametrize("softcap", [None, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_masked_attention_is_the_definition_too(softcap, dtype):
    q, k, v = inputs(6, heads=1, kv_heads=1, dtype=dtype)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    batched = [tensor.detach().transpose(0, 1)[None] for tensor in (q, k, v)]
    out = masked_attention(*batched, causal, 0.6, softcap)[0].transpose(0, 1)
    expected = definition(q.double(), k.double(), v.double(), (6,), 0.6, softcap=softcap)
    rounding = 1e-12 if dtype == torch.float64 else 2**-6
    torch.testing.assert_close(out.double(), expected, rtol=rounding, atol=rounding)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 1, 5, BLOCK])
def test_the_flash_kernel_agrees_with_the_blocks(window):
    qkv = inputs(sum(RAGGED), heads=8, kv_heads=2, width=64, dtype=torch.bfloat16)
    ours = [t.detach().requires_grad_() for t in qkv]
    flash = [t.detach().cuda().requires_grad_() for t in qkv]
    results = []
    for tensors in (ours, flash):
        out = packed_attention(*tensors, RAGGED, scale=0.125, window=window)
        out.float().square().sum().backward()
        results.append([out.detach().cpu(), *(t.grad.cpu() for t in tensors)])
    for mine, other in zip(*results, strict=True):
        assert (mine - other).norm() < 2**-6 * mine.norm()
