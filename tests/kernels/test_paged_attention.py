"""Attention over pages: against the plain definition on whole rows, and the Triton kernel against that.

The kernel runs on the GPU where there is one, else in Triton's interpreter; without Triton those tests skip.
"""

import importlib.util
import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined

from rung.kernels.attention import packed_attention  # noqa: E402
from rung.kernels.paged_attention import paged_attention  # noqa: E402

BACKENDS = [
    "torch",
    pytest.param(
        "triton",
        marks=pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton"),
    ),
]
PAGE, KV_HEADS = 16, 2
LENGTHS = (1, 16, 17, 40, 200, 33)


def problem(group=3, width=24, lengths=LENGTHS, dtype=torch.float32, spare=2, seed=0):
    """Rows of random keys and values, and the same laid out in shuffled pages; the last two rows share their first page."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    rows = [tuple(random(n, KV_HEADS, width) for _ in range(2)) for n in lengths]
    for x, y in zip(rows[-1], rows[-2], strict=True):
        x[:PAGE] = y[:PAGE]
    counts = [-(-n // PAGE) for n in lengths]
    order = torch.randperm(sum(counts), generator=generator).tolist()
    table = torch.zeros(len(lengths), max(counts) + spare, dtype=torch.int32)
    # Rubbish behind each row's end.
    keys, values = (random(sum(counts) + 1, KV_HEADS, PAGE, width) for _ in range(2))
    for row, (count, own) in enumerate(zip(counts, rows, strict=True)):
        for m in range(count):
            page = int(table[-2, 0]) if row == len(rows) - 1 and m == 0 else 1 + order.pop()
            table[row, m] = page
            for pool, x in zip((keys, values), own, strict=True):
                part = x[m * PAGE : (m + 1) * PAGE]
                pool[page, :, : len(part)] = part.transpose(0, 1)
    q = random(len(lengths), KV_HEADS * group, width)
    return q, keys, values, table, torch.tensor(lengths), rows


def expected(q, rows, **options):
    """Row by row, by the trainer's attention: the query stands behind its row's other tokens."""
    out = []
    for one, (k, v) in zip(q.double(), rows, strict=True):
        whole_q = torch.zeros(len(k), *one.shape, dtype=torch.double)
        whole_q[-1] = one
        out.append(packed_attention(whole_q, k.double(), v.double(), (len(k),), **options)[-1])
    return torch.stack(out)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [None, 1, 20, 100])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize(("group", "width"), [(1, 16), (3, 24), (4, 64)])
def test_pages_in_any_order_give_what_whole_rows_give(group, width, window, softcap, backend):
    """The longest row has 13 pages, so the kernel joins parts; the window leaves whole parts empty."""
    q, keys, values, table, lengths, rows = problem(group, width)
    options = dict(scale=0.4, window=window, softcap=softcap)
    given = [x.to(DEVICE) for x in (q, keys, values, table, lengths)]
    out = paged_attention(*given, **options, backend=backend)
    assert out.dtype == q.dtype
    torch.testing.assert_close(out.double().cpu(), expected(q, rows, **options), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_narrow_table_is_read_in_one_part_and_half_precision_is_summed_in_float32(backend):
    lengths = (1, 15, 48, 33)
    q, keys, values, table, lengths_B, rows = problem(2, 32, lengths, torch.float16, spare=0)
    given = [x.to(DEVICE) for x in (q, keys, values, table, lengths_B)]
    out = paged_attention(*given, scale=0.3, backend=backend)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.double().cpu(), expected(q, rows, scale=0.3), rtol=2e-3, atol=2e-3)


@pytest.mark.cuda
def test_bfloat16_on_the_gpu_is_the_definition_within_its_rounding():
    q, keys, values, table, lengths, rows = problem(3, 64, (1, 64, 700, 1500), torch.bfloat16)
    given = [x.to("cuda") for x in (q, keys, values, table, lengths)]
    out = paged_attention(*given, scale=0.125)
    torch.testing.assert_close(out.double().cpu(), expected(q, rows, scale=0.125), rtol=2e-2, atol=1e-2)
