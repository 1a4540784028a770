"""The CPU's own kernels against the same steps in PyTorch's operators, milliseconds.

    rung bench native [--json] [--quick]

Shapes are SmolLM2-135M's: 2,048 tokens of training for forward with backward, a decoding step of 64 rows for what only
samples. Both ways take turns in one process, the best of several turns counts: they share memory, threads and weather.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager

import torch

from benchmarks.harness import report
from rung.kernels import native
from rung.kernels.attention import one_query_attention, packed_attention
from rung.kernels.elementwise import gated, rms_norm, rotate
from rung.memory import peak_memory

HEADS, KV_HEADS, WIDTH, HIDDEN, MLP = 9, 3, 64, 576, 1536
TOKENS, ROWS = 2048, 64
LENGTHS = (64, 128, 256, 512, 1024)  # of the documents that 2,048 tokens are cut into


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rung bench native", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    options = parser.parse_args(arguments)
    if native.library() is None:
        print("no native kernels here: see rung doctor", file=sys.stderr)
        return 1
    turns = 3 if options.quick else 9
    rows = {name: compare(step, turns) for name, step in steps().items()}
    print(f"{'milliseconds':34s} {'ours':>8s} {'PyTorch':>8s} {'ratio':>6s}")
    for name, (ours, theirs) in rows.items():
        print(f"{name:34s} {ours * 1e3:8.2f} {theirs * 1e3:8.2f} {theirs / ours:6.2f}")
    if options.json:  # both ways ran in one process, so its peak is that of either
        worst = min(rows, key=lambda name: rows[name][1] / rows[name][0])
        gigabytes = peak_memory("cpu")
        mine, pytorch = (
            {"steps_per_second": 1 / s, "seconds": s, "peak_memory": gigabytes} for s in rows[worst]
        )
        runs = {name: [{"ours": a, "pytorch": b}] for name, (a, b) in rows.items()}
        one = report(
            "native", f"bf16 on cpu; the least gain, {worst}", mine, {"pytorch": pytorch}, peer="pytorch",
            rate="steps_per_second", runs=runs,
        )  # fmt: skip
        print(json.dumps(one))
    return 0


def compare(step: Callable[[], object], turns: int) -> tuple[float, float]:
    """Best seconds with our kernels and with PyTorch's operators."""
    best = [float("inf"), float("inf")]
    for _ in range(turns):
        for place, ours in enumerate((True, False)):
            with kernels(ours):
                step()
                began = time.perf_counter()
                step()
                best[place] = min(best[place], time.perf_counter() - began)
    return best[0], best[1]


@contextmanager
def kernels(ours: bool):
    """Whether our kernels are there."""
    library = native.library
    if not ours:
        native.library = lambda *name: None  # type: ignore[assignment]
    try:
        yield
    finally:
        native.library = library


def steps() -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    x, gain = number(TOKENS, HIDDEN), number(HIDDEN)
    gate, up = number(TOKENS, MLP), number(TOKENS, MLP)
    q, cos, sin = number(TOKENS, HEADS, WIDTH), number(TOKENS, WIDTH).detach(), number(TOKENS, WIDTH).detach()
    found: dict[str, Callable[[], object]] = {
        "RMSNorm, forward and backward": both_ways(lambda: rms_norm(x, gain, 1e-5), x, gain),
        "SwiGLU, forward and backward": both_ways(lambda: gated(gate, up, "silu"), gate, up),
        "rotation, forward and backward": both_ways(lambda: rotate(q, cos, sin), q),
    }
    for length in LENGTHS:
        found[f"attention of {length}, both ways"] = documents(length)
    for held in (128, 384):
        found[f"a step's attention to {held}"] = decoding(held)
    return found


def number(*shape: int) -> torch.Tensor:
    return torch.randn(shape).bfloat16().requires_grad_()


def both_ways(forward: Callable[[], torch.Tensor], *leaves: torch.Tensor) -> Callable[[], object]:
    direction = torch.randn_like(forward())
    return lambda: torch.autograd.grad(forward(), leaves, direction)


def documents(length: int) -> Callable[[], object]:
    """Documents of nearly one length, as packed rows are: no two of a batch need be equal."""
    lengths = tuple(length - 3 * i % 7 for i in range(TOKENS // length))
    q, k, v = (number(sum(lengths), heads, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS))
    return both_ways(lambda: packed_attention(q, k, v, lengths, scale=WIDTH**-0.5), q, k, v)


def decoding(held: int) -> Callable[[], object]:
    """One query a row against what a cache holds; rows are of different length, and operators need a mask for that."""
    keys, values = (torch.randn(ROWS, KV_HEADS, held, WIDTH).bfloat16() for _ in range(2))
    q, k, v = (torch.randn(ROWS, heads, WIDTH).bfloat16() for heads in (HEADS, KV_HEADS, KV_HEADS))
    lengths = torch.arange(ROWS) * held // (2 * ROWS) + held // 2
    hidden = torch.arange(held) > lengths[:, None]
    mask = torch.zeros(ROWS, held).masked_fill_(hidden, -torch.inf)[:, None, None]
    slots = torch.arange(ROWS)

    def step() -> object:
        if native.library() is not None:
            return native.attend_step(q, k, v, keys, values, lengths, scale=0.125, window=None, softcap=None)
        keys[slots, :, lengths], values[slots, :, lengths] = k, v
        return one_query_attention(q.unflatten(1, (KV_HEADS, -1)), keys, values, mask, 0.125, None)

    return step


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
