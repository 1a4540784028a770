"""The CPU's own kernels against their definitions in float64, at the edges of floats, and where there is no compiler."""

import math
import subprocess
import sys

import pytest
import torch

from rung.kernels import elementwise, native
from rung.kernels.attention import masked_attention, packed_attention

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C++ compiler here")

DTYPES = [torch.float32, torch.bfloat16]
# A result in float32 is right to a few of its last bits, one in bf16 to half of its last.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2.0**-8}


def draw(*shape, dtype=torch.float32, seed=0, scale=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def close(ours, exact, *, spread=None):
    """Relative to the number itself, or where terms cancel to the largest of them."""
    tolerance = TOLERANCE[ours.dtype]
    size = exact.abs() if spread is None else spread
    assert ((ours.double() - exact).abs() <= tolerance * size.clamp_min(1e-30) * 1.01).all()


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 7, 64, 576])
def test_rms_norm(dtype, width):
    x, w = draw(37, width, dtype=dtype), draw(width, dtype=dtype, seed=1)
    out, r = native.rms_norm(x, w, 1e-5, 1.0)
    exact_r = 1 / (x.double().square().mean(-1) + 1e-5).sqrt()
    close(r, exact_r)
    close(
        out,
        x.double() * exact_r[:, None] * (w.double() + 1),
        spread=(x.double() * exact_r[:, None]).abs() * (w.double().abs() + 1),
    )


def test_a_row_of_zeros_stays_zero_and_nan_is_not_lost():
    x = torch.zeros(3, 8)
    x[1, 2], x[2, 3] = torch.nan, torch.inf
    out, _ = native.rms_norm(x.bfloat16(), torch.ones(8).bfloat16(), 1e-5, 0.0)
    assert (out[0] == 0).all() and out[1].isnan().all() and out[2, 3].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
def test_rms_norm_backward(dtype, rows):
    x, w, dy = draw(rows, 48, dtype=dtype), draw(48, dtype=dtype, seed=1), draw(rows, 48, dtype=dtype, seed=2)
    leaf, gain = x.double().requires_grad_(), w.double().requires_grad_()
    normed = leaf / (leaf.square().mean(-1, keepdim=True) + 1e-5).sqrt() * (gain + 0.5)
    exact_dx, exact_dw = torch.autograd.grad(normed, (leaf, gain), dy.double())
    _, r = native.rms_norm(x, w, 1e-5, 0.5)
    dx, dw = native.rms_norm_backward(x, w, r, dy, 0.5)
    assert dw.dtype == torch.float32
    close(dx, exact_dx, spread=(dy.double() * (w.double() + 0.5) * r[:, None]).abs().amax(-1, keepdim=True))
    torch.testing.assert_close(dw.double(), exact_dw, rtol=0, atol=1e-5 * rows**0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [2, 10, 64, 96])
@pytest.mark.parametrize("sign", [1, -1])
def test_rotation(dtype, width, sign):
    x, cos, sin = (
        draw(19, 3, width, dtype=dtype),
        draw(19, width, dtype=dtype, seed=1),
        draw(19, width, dtype=dtype, seed=2),
    )
    a, b = x.double().chunk(2, -1)
    (c, c_high), (s, s_high) = (y.double()[:, None].chunk(2, -1) for y in (cos, sin))
    exact = torch.cat((a * c - sign * b * s, b * c_high + sign * a * s_high), -1)
    close(native.rotate(x, cos, sin, sign), exact, spread=x.abs().amax().double() * 4)
    turned = native.rotate(torch.ones(1, 1, 2), torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]]), sign)
    assert turned.flatten().tolist() == [-sign, sign]  # a quarter turn of (1, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 31, 1536])
def test_swiglu_and_its_gradients(dtype, count):
    gate, up, dy = (draw(20, count, dtype=dtype, seed=i, scale=4.0) for i in range(3))
    g, u, d = (x.double() for x in (gate, up, dy))
    close(native.swiglu(gate, up), g * sigmoid(g) * u)
    dgate, dup = native.swiglu_backward(gate, up, dy)
    close(dup, d * g * sigmoid(g))
    slope = sigmoid(g) * (1 + g * (1 - sigmoid(g)))
    close(dgate, d * u * slope, spread=(d * u).abs() * sigmoid(g) * (1 + g.abs()))


def test_the_exponential_is_right_over_the_whole_range_of_floats():
    gate = torch.cat(
        [torch.linspace(-86.9, 86.9, 100_001), torch.tensor([-1e-30, 0.0, 1e-30, 0.34657, -0.34658])]
    )
    exact = gate.double() * sigmoid(gate.double())
    ours = native.swiglu(gate, torch.ones_like(gate))
    assert ((ours.double() - exact).abs() <= 1e-6 * exact.abs()).all()
    edges = torch.tensor([-torch.inf, -1e30, -200.0, 200.0, 1e30, torch.inf, torch.nan])
    values = native.swiglu(edges, torch.ones(7)).tolist()
    assert values[1:6] == [0, 0, 200, float(edges[4]), math.inf] and math.isnan(values[6])


def test_rounding_to_bf16_is_to_the_nearest_and_to_even():
    """Through a rotation by cos = 1, sin = 0 nothing is changed but by rounding; PyTorch's is the oracle."""
    values = draw(4096, seed=3) * torch.logspace(-30, 30, 4096)
    halves = torch.tensor([1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, torch.inf, -torch.inf, torch.nan, 3.39e38])
    x = torch.cat([values, halves]).repeat(2)
    gate = torch.full_like(x, 60.0).bfloat16()  # silu(60) is 60 to float32's last bit
    up = (x / 60).bfloat16()
    expected = (gate.float() * up.float()).bfloat16()
    torch.testing.assert_close(native.swiglu(gate, up), expected, rtol=0, atol=0, equal_nan=True)


def attention_case(group, width, dtype, lengths=(0, 1, 5, 37, 63), capacity=64, kv_heads=2):
    rows = len(lengths)
    q = draw(rows, kv_heads * group, width, dtype=dtype, seed=1)
    k, v = draw(rows, kv_heads, width, dtype=dtype, seed=2), draw(rows, kv_heads, width, dtype=dtype, seed=3)
    keys, values = (draw(rows + 2, kv_heads, capacity, width, dtype=dtype, seed=i) for i in (4, 5))
    return q, k, v, keys, values, torch.tensor(lengths)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("group", "width"), [*((g, 64) for g in range(1, 9)), (2, 128), (5, 128)])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (5, None), (37, 3.0)])
def test_attention_of_a_step(dtype, group, width, window, softcap):
    q, k, v, keys, values, lengths = attention_case(group, width, dtype)
    before = keys.clone(), values.clone()
    out = native.attend_step(
        q, k, v, keys, values, lengths, scale=width**-0.5, window=window, softcap=softcap
    )
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(keys[row, :, length], k[row]) and torch.equal(values[row, :, length], v[row])
        before[0][row, :, length], before[1][row, :, length] = k[row], v[row]
        age = length - torch.arange(length + 1)
        seen = (age < window if window else age >= 0)[None, None, None]
        exact = masked_attention(
            q[row].double().unflatten(0, (2, group))[None, :, :, None],
            keys[row, :, : length + 1].double()[None, :, None], values[row, :, : length + 1].double()[None, :, None],
            seen, width**-0.5, softcap,
        ).flatten()  # fmt: skip
        close(out[row].flatten(), exact, spread=torch.tensor(8.0).double())
    assert torch.equal(keys, before[0]) and torch.equal(values, before[1])  # and nothing else was written


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("lengths", "parents"), [((5, 7, 20), ()), ((3, 10, 5, 4, 6), (-1, -1, 0, 1, 1))])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (4, None), (None, 5.0), (6, 2.0)])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(6, 2, 64), (1, 1, 32), (8, 1, 96)])
def test_attention_of_documents_and_its_gradients(
    dtype, lengths, parents, window, softcap, heads, kv_heads, width
):
    """The same numbers, rounded alike, by PyTorch's operators in float64."""
    shapes = [(sum(lengths), count, width) for count in (heads, kv_heads, kv_heads, heads)]
    rounded = [draw(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]

    def everything(dtype):
        *leaves, direction = (x.to(dtype) for x in rounded)
        leaves = [x.clone().requires_grad_() for x in leaves]
        out = packed_attention(*leaves, lengths, parents, scale=width**-0.5, window=window, softcap=softcap)
        return [out.detach(), *torch.autograd.grad(out, leaves, direction)]

    assert native.can_attend(*rounded[:3])
    for ours, exact in zip(everything(dtype), everything(torch.float64), strict=True):
        close(ours, exact, spread=exact.abs().max())


@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(9, 1, 64), (2, 1, 48), (2, 1, 512)])
def test_heads_that_do_not_fit_go_to_pytorch(heads, kv_heads, width):
    q, k, v = (draw(3, count, width) for count in (heads, kv_heads, kv_heads))
    assert not native.can_attend(q, k, v)


def test_rows_do_not_depend_on_threads_or_on_what_stands_beside_them():
    x, w, dy = (
        draw(200, 576, dtype=torch.bfloat16),
        draw(576, dtype=torch.bfloat16),
        draw(200, 576, dtype=torch.bfloat16, seed=2),
    )
    q, k, v, keys, values, lengths = attention_case(3, 64, torch.bfloat16)
    threads = torch.get_num_threads()

    def everything():
        out, r = native.rms_norm(x, w, 1e-5, 0.0)
        step = native.attend_step(q, k, v, keys, values, lengths, scale=0.1, window=None, softcap=None)
        leaves = [
            y.clone().requires_grad_() for y in (dy.view(200, 9, 64), *x.view(200, 9, 64)[:, :6].split(3, 1))
        ]
        attended = packed_attention(*(y.contiguous() for y in leaves), (90, 110), scale=0.1)
        gradients = torch.autograd.grad(attended, leaves, dy.view(200, 9, 64))
        return [
            out,
            *native.rms_norm_backward(x, w, r, dy, 0.0),
            native.swiglu(x, dy),
            attended,
            *gradients,
            step,
        ]

    try:
        torch.set_num_threads(1)
        alone = everything()
        torch.set_num_threads(2)
        assert all(torch.equal(a, b) for a, b in zip(alone, everything(), strict=True))
    finally:
        torch.set_num_threads(threads)
    ragged = native.swiglu(x[:, :571].contiguous(), dy[:, :571].contiguous())  # 571 fills no vectors
    assert torch.equal(native.rms_norm(x[17:18], w, 1e-5, 0.0)[0], alone[0][17:18])
    assert torch.equal(
        native.swiglu(x[17:18, :571].contiguous(), dy[17:18, :571].contiguous()), ragged[17:18]
    )
    one = native.attend_step(
        q[3:4], k[3:4], v[3:4], keys[3:4], values[3:4], lengths[3:4], scale=0.1, window=None, softcap=None
    )
    assert torch.equal(one, alone[-1][3:4])


@pytest.mark.parametrize("wrong", ["float64", "strided", "mixed"])
def test_what_the_kernels_do_not_know_goes_to_pytorch(wrong):
    x, w = draw(6, 8), draw(8)
    x, w = {"float64": (x.double(), w.double()), "strided": (draw(8, 6).T, w), "mixed": (x.bfloat16(), w)}[
        wrong
    ]
    assert native.can(draw(6, 8), draw(8)) and not native.can(x, w)
    with torch.no_grad():
        torch.testing.assert_close(
            elementwise.rms_norm(x, w, 1e-5), elementwise.rms_norm_plain(x, w, 1e-5), rtol=2.0**-7, atol=1e-6
        )


def test_without_a_compiler_the_same_comes_from_pytorch(monkeypatch):
    gate, up, cos, sin = draw(6, 8), draw(6, 8, seed=1), draw(6, 4, seed=2), draw(6, 4, seed=3)
    cos, sin = torch.cat((cos, cos), 1)[:, :4], torch.cat((sin[:, :2], sin[:, :2]), 1)
    cos = torch.cat((cos[:, :2], cos[:, :2]), 1)

    def everything():
        leaves = [x.clone().requires_grad_() for x in (gate, up)]
        outs = (
            elementwise.gated(*leaves, "silu"),
            elementwise.rms_norm(leaves[0], leaves[1][0], 1e-5, 1.0),
            elementwise.rotate(leaves[1].unflatten(1, (2, 4)), cos, sin).flatten(1),
        )
        return [*outs, *torch.autograd.grad(sum(outs).square().sum(), leaves)]

    ours = everything()
    monkeypatch.setattr(native, "library", lambda *name: None)
    for mine, theirs in zip(ours, everything(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_a_compiler_that_is_missing_or_refuses_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path))
    with pytest.raises(native.NoKernels, match=r"-DWIDTH=what .*attention.cpp.* failed: .*error"):
        native.compiled("attention", "-DWIDTH=what", "-DGROUP=1")
    assert list((tmp_path / "kernels").iterdir()) == []
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    with pytest.raises(native.NoKernels, match=r"compiler named c\+\+"):
        native.compiled()


def test_a_cache_that_cannot_be_written_or_run_from_leaves_pytorch(monkeypatch, tmp_path):
    (tmp_path / "kernels").write_text("a file where the folder should be")
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path))
    with pytest.raises(native.NoKernels, match="cannot be kept in or loaded from"):
        native.load()
    assert native.library.__wrapped__() is None
    (tmp_path / "broken.so").write_text("not a library")
    monkeypatch.setattr(native, "compiled", lambda *name: tmp_path / "broken.so")
    with pytest.raises(native.NoKernels, match="cannot be kept in or loaded from"):
        native.load()


def test_several_processes_may_compile_at_once(tmp_path):
    code = "from rung.kernels import native; print(native.compiled())"
    start = {
        "env": {"RUNG_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        "text": True,
    }
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, **start) for _ in range(2)]
    first, second = (process.communicate()[0].strip() for process in both)
    assert first == second and [path.name for path in (tmp_path / "kernels").iterdir()] == [
        first.split("/")[-1]
    ]
