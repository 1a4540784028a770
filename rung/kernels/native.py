"""The CPU's own kernels: native.cpp, compiled once by this machine's C++ compiler, kept in the cache.

Steps between matrix products are bound by memory and, at the few rows of a decoding step, by what it costs to
call them. Each kernel goes over its operands once. Where there is no compiler `library()` is None, everything
runs on PyTorch's operators, and `rung doctor` says so; results then differ in the last bits only.

`-fassociative-math` lets sums be taken in vectors; NaN and infinity keep their meaning. The library has no thread
pool of its own: its parallel loops find the OpenMP runtime that PyTorch has loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from rung.machine import cache_root

SOURCE = Path(__file__).with_name("native.cpp")
VECTORS = ["-O3", "-march=native", "-mprefer-vector-width=512"]
ARITHMETIC = ["-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"]
FLAGS = ["-std=c++17", "-fopenmp", "-fPIC", *VECTORS, *ARITHMETIC]
SUFFIX = {torch.bfloat16: "bf16", torch.float32: "float"}
WIDTHS, GROUP = (64, 128), 8  # of heads, and query heads to a key-value head, that `attend` is compiled for
CHUNK = 64  # rows whose gradients of a norm's weight are added first

_pointer, _long, _float = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
ARGUMENTS = {
    "rms_norm": [*[_pointer] * 4, *[_long] * 2, *[_float] * 2],
    "rms_norm_backward": [*[_pointer] * 6, *[_long] * 3, _float],
    "rotate": [*[_pointer] * 4, *[_long] * 3, _float],
    "swiglu": [*[_pointer] * 3, *[_long] * 2],
    "swiglu_backward": [*[_pointer] * 5, *[_long] * 2],
    "attend": [*[_pointer] * 8, *[_long] * 6, *[_float] * 2],
}


class NoKernels(Exception):
    """Why there are none here."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, compiled if they were not; None where they cannot be."""
    try:
        loaded = ctypes.CDLL(str(compiled()))
    except NoKernels:
        return None
    for name, types in ARGUMENTS.items():
        for suffix in SUFFIX.values():
            function = getattr(loaded, f"{name}_{suffix}")
            function.argtypes, function.restype = types, None
    return loaded


def compiled() -> Path:
    """The library's file, named by the source, the compiler and the processor. Raises NoKernels."""
    compiler = shutil.which("c++")
    if sys.platform != "linux" or compiler is None:
        raise NoKernels("they need Linux and a C++ compiler named c++ (apt-get install g++)")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), version, _processor(), " ".join(FLAGS).encode()]))
    folder = cache_root() / "kernels"
    path = folder / f"{key.hexdigest()[:16]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            object_file, linked = Path(temporary) / "native.o", Path(temporary) / "native.so"
            _run([compiler, *FLAGS, "-c", str(SOURCE), "-o", str(object_file)])
            _run([compiler, "-shared", "-nostdlib", "-o", str(linked), str(object_file)])
            linked.replace(path)  # whole or not there, whoever else is compiling it
    return path


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoKernels(f"{command[0]} refused {SOURCE.name}: {done.stderr.strip()[:300]}")


def _processor() -> bytes:
    """What -march=native looks at, so that a home shared by different machines holds a library for each."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    kind = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return "\n".join([platform.machine(), *sorted(kind)]).encode()


def can(*tensors: Tensor) -> bool:
    """Whether the kernels take these: dense CPU tensors of one type that they know."""
    dtype = tensors[0].dtype
    return (
        dtype in SUFFIX
        and all(x.dtype == dtype and x.device.type == "cpu" and x.is_contiguous() for x in tensors)
        and library() is not None
    )


def rms_norm(x: Tensor, weight_D: Tensor, epsilon: float, offset: float) -> tuple[Tensor, Tensor]:
    """The normed x and 1 / rms of each row, `[rows]`."""
    width = x.shape[-1]
    rows = x.numel() // width
    out, r = torch.empty_like(x), torch.empty(rows)
    _call("rms_norm", x, weight_D, out, r, rows, width, epsilon, offset)
    return out, r


def rms_norm_backward(
    x: Tensor, weight_D: Tensor, r: Tensor, dy: Tensor, offset: float
) -> tuple[Tensor, Tensor]:
    """dx, and the float32 gradient of the weight."""
    width = x.shape[-1]
    rows = x.numel() // width
    dx, parts = torch.empty_like(x), torch.empty(-(-rows // CHUNK), width)
    _call("rms_norm_backward", x, weight_D, r, dy, dx, parts, rows, width, CHUNK, offset)
    return dx, parts.sum(0)


def rotate(x_NHd: Tensor, cos_Nd: Tensor, sin_Nd: Tensor, sign: int) -> Tensor:
    out = torch.empty_like(x_NHd)
    _call("rotate", x_NHd, cos_Nd, sin_Nd, out, *x_NHd.shape, sign)
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    out = torch.empty_like(gate)
    _call("swiglu", gate, up, out, gate.numel() // gate.shape[-1], gate.shape[-1])
    return out


def swiglu_backward(gate: Tensor, up: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    dgate, dup = torch.empty_like(gate), torch.empty_like(up)
    _call("swiglu_backward", gate, up, dy, dgate, dup, gate.numel() // gate.shape[-1], gate.shape[-1])
    return dgate, dup


def can_attend(q_BHd: Tensor, k_BKd: Tensor, v_BKd: Tensor) -> bool:
    heads, width = q_BHd.shape[1:]
    return width in WIDTHS and heads // k_BKd.shape[1] <= GROUP and can(q_BHd, k_BKd, v_BKd)


def attend(
    q_BHd: Tensor, k_BKd: Tensor, v_BKd: Tensor, keys_SKTd: Tensor, values_SKTd: Tensor, lengths_B: Tensor,
    *, scale: float, window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    """One new token for each of the first B slots of a cache, which hold `lengths_B` tokens so far.

    Its key and value are written behind them, then its queries attend to all of the row, `[B, H, d]`. Probabilities
    stay in float32.
    """
    rows, heads, width = q_BHd.shape
    kv_heads, capacity = keys_SKTd.shape[1:3]
    out, scratch = torch.empty_like(q_BHd), torch.empty(rows, heads, capacity)
    _call(
        "attend", q_BHd, k_BKd, v_BKd, keys_SKTd, values_SKTd, out, lengths_B, scratch,
        rows, kv_heads, heads // kv_heads, width, capacity, window or 0, scale, softcap or 0.0,
    )  # fmt: skip
    return out


def _call(name: str, first: Tensor, *rest: Tensor | float) -> None:
    function = getattr(library(), f"{name}_{SUFFIX[first.dtype]}")
    function(first.data_ptr(), *(x.data_ptr() if isinstance(x, Tensor) else x for x in rest))
