"""The CPU's own kernels, in cpp/: compiled by this machine's C++ compiler when first needed, kept in the cache.

Steps between matrix products are bound by memory and, at the few rows of a decoding step, by what it costs to call
them; attention of short documents is many small products. Each kernel goes over its operands once. Where there is
no compiler `library()` is None, everything runs on PyTorch's operators, and `rung doctor` says so; results
then differ in the last bits only.

`-fassociative-math` lets sums be taken in vectors; NaN and infinity keep their meaning. The libraries have no thread
pool of their own: their parallel loops find the OpenMP runtime that PyTorch has loaded.
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
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from rung.machine import cache_root

SOURCES = Path(__file__).with_name("cpp")
VECTORS = ["-O3", "-march=native", "-mprefer-vector-width=512"]
ARITHMETIC = ["-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"]
FLAGS = ["-std=c++17", "-fopenmp", "-fPIC", *VECTORS, *ARITHMETIC]
SUFFIX = {torch.bfloat16: "bf16", torch.float32: "float"}
LANES, WIDEST, GROUP = (
    32,
    256,
    8,
)  # a head's width is a multiple of the first; most query heads to a key-value head
CHUNK = 64  # rows whose gradients of a norm's weight are added first

Spans = tuple[tuple[int, int], tuple[int, int]]  # (from, to) of a document, and of the trunk it continues
_pointer, _long, _float = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
FUNCTIONS = {
    "elementwise": {
        "rms_norm": [*[_pointer] * 4, *[_long] * 2, *[_float] * 2],
        "rms_norm_backward": [*[_pointer] * 6, *[_long] * 3, _float],
        "rotate": [*[_pointer] * 4, *[_long] * 3, _float],
        "swiglu": [*[_pointer] * 3, *[_long] * 2],
        "swiglu_backward": [*[_pointer] * 5, *[_long] * 2],
    },
    "attention": {
        "attend_step": [*[_pointer] * 7, *[_long] * 4, *[_float] * 2],
        "attend_documents": [*[_pointer] * 5, *[_long] * 4, *[_float] * 2],
        "attend_documents_backward": [*[_pointer] * 11, *[_long] * 5, *[_float] * 2],
    },
}


class NoKernels(Exception):
    """Why there are none here."""


@functools.cache
def library(name: str = "elementwise", *constants: str) -> ctypes.CDLL | None:
    """The kernels of a source with its constants, compiled if they were not; None where they cannot be."""
    try:
        loaded, _ = load(name, *constants)
    except NoKernels:
        return None
    for function, types in FUNCTIONS[name].items():
        for suffix in SUFFIX.values():
            getattr(loaded, f"{function}_{suffix}").argtypes = types
            getattr(loaded, f"{function}_{suffix}").restype = None
    return loaded


def load(name: str = "elementwise", *constants: str) -> tuple[ctypes.CDLL, Path]:
    """The library and its file. Raises NoKernels: no compiler, a cache that cannot be written or run from."""
    try:
        path = compiled(name, *constants)
        return ctypes.CDLL(str(path)), path
    except OSError as error:
        raise NoKernels(
            f"they cannot be kept in or loaded from {cache_root() / 'kernels'}: {error}"
        ) from None


def compiled(name: str = "elementwise", *constants: str) -> Path:
    """The library's file, named by source, constants, compiler and processor. Raises NoKernels."""
    compiler = shutil.which("c++")
    if sys.platform != "linux" or compiler is None:
        raise NoKernels("they need Linux and a C++ compiler named c++ (apt-get install g++)")
    source, flags = SOURCES / f"{name}.cpp", [*FLAGS, *constants]
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    text = b"".join(path.read_bytes() for path in (SOURCES / "numbers.h", source))
    key = hashlib.sha256(b"\0".join([text, version, _processor(), " ".join(flags).encode()])).hexdigest()
    path = cache_root() / "kernels" / f"{name}-{key[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            half, whole = Path(temporary) / "half.o", Path(temporary) / "whole.so"
            _run([compiler, *flags, "-c", str(source), "-o", str(half)])
            _run([compiler, "-shared", "-nostdlib", "-o", str(whole), str(half)])
            whole.replace(path)  # whole or not there, whoever else is compiling it
    return path


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoKernels(f"{' '.join(command)} failed: {done.stderr.strip()[:300]}")


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
    _call(library(), "rms_norm", x, weight_D, out, r, rows, width, epsilon, offset)
    return out, r


def rms_norm_backward(
    x: Tensor, weight_D: Tensor, r: Tensor, dy: Tensor, offset: float
) -> tuple[Tensor, Tensor]:
    """dx, and the float32 gradient of the weight."""
    width = x.shape[-1]
    rows = x.numel() // width
    dx, parts = torch.empty_like(x), torch.empty(-(-rows // CHUNK), width)
    _call(library(), "rms_norm_backward", x, weight_D, r, dy, dx, parts, rows, width, CHUNK, offset)
    return dx, parts.sum(0)


def rotate(x_NHd: Tensor, cos_Nd: Tensor, sin_Nd: Tensor, sign: int) -> Tensor:
    out = torch.empty_like(x_NHd)
    _call(library(), "rotate", x_NHd, cos_Nd, sin_Nd, out, *x_NHd.shape, sign)
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    out = torch.empty_like(gate)
    _call(library(), "swiglu", gate, up, out, gate.numel() // gate.shape[-1], gate.shape[-1])
    return out


def swiglu_backward(gate: Tensor, up: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    dgate, dup = torch.empty_like(gate), torch.empty_like(up)
    _call(
        library(), "swiglu_backward", gate, up, dy, dgate, dup, gate.numel() // gate.shape[-1], gate.shape[-1]
    )
    return dgate, dup


def can_attend(q_BHd: Tensor, k_BKd: Tensor, v_BKd: Tensor) -> bool:
    group, width = q_BHd.shape[1] // k_BKd.shape[1], q_BHd.shape[2]
    fits = width % LANES == 0 and width <= WIDEST and group <= GROUP
    return fits and can(q_BHd, k_BKd, v_BKd) and _attention(q_BHd, k_BKd) is not None


def attend_step(
    q_BHd: Tensor, k_BKd: Tensor, v_BKd: Tensor, keys_SKTd: Tensor, values_SKTd: Tensor, lengths_B: Tensor,
    *, scale: float, window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    """One new token for each of the first B slots of a cache, which hold `lengths_B` tokens so far.

    Its key and value are written behind them, then its queries attend to all of the row, `[B, H, d]`. Probabilities
    stay in float32.
    """
    rows, (kv_heads, capacity) = len(q_BHd), keys_SKTd.shape[1:3]
    out = torch.empty_like(q_BHd)
    _call(
        _attention(q_BHd, k_BKd), "attend_step", q_BHd, k_BKd, v_BKd, out, keys_SKTd, values_SKTd, lengths_B,
        rows, kv_heads, capacity, window or 0, scale, softcap or 0.0,
    )  # fmt: skip
    return out


def attend_documents(
    q_NHd: Tensor, k_NKd: Tensor, v_NKd: Tensor, spans: list[Spans],
    *, scale: float, window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    """`packed_attention` forward. Probabilities stay in float32."""
    kv_heads, out, places = k_NKd.shape[1], torch.empty_like(q_NHd), _places(spans)
    _call(
        _attention(q_NHd, k_NKd), "attend_documents", q_NHd, k_NKd, v_NKd, out, places,
        len(places), kv_heads, longest(spans), window or 0, scale, softcap or 0.0,
    )  # fmt: skip
    return out


def attend_documents_backward(
    q_NHd: Tensor, k_NKd: Tensor, v_NKd: Tensor, dout_NHd: Tensor, spans: list[Spans],
    *, scale: float, window: int | None, softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v; those of k and v are added up in float32."""
    kv_heads = k_NKd.shape[1]
    # What continues a document directly behind it: a stable sort keeps the order of additions.
    spans = sorted(spans, key=_root)
    places, roots = _places(spans), [_root(span) for span in spans]
    bounds = [0, *(i for i in range(1, len(roots)) if roots[i] != roots[i - 1]), len(roots)]
    families = torch.tensor([*pairwise(bounds)])
    grads = [torch.empty_like(x) for x in (q_NHd, k_NKd, v_NKd)]
    wide = torch.zeros(2, *k_NKd.shape)
    _call(
        _attention(q_NHd, k_NKd), "attend_documents_backward",
        q_NHd, k_NKd, v_NKd, dout_NHd, *grads, *wide, places, families,
        len(places), len(families), kv_heads, longest(spans), window or 0, scale, softcap or 0.0,
    )  # fmt: skip
    return grads[0], grads[1], grads[2]


def _root(span: Spans) -> int:
    (start, _), (trunk, end) = span
    return trunk if end > trunk else start


def _places(spans: list[Spans]) -> Tensor:
    """`[documents, 4]`: start and length of each, then of its trunk."""
    return torch.tensor([(own[0], own[1] - own[0], trunk[0], trunk[1] - trunk[0]) for own, trunk in spans])


def longest(spans: list[Spans]) -> int:
    """Most keys that a query of these documents sees."""
    return max((own[1] - own[0] + trunk[1] - trunk[0] for own, trunk in spans), default=0)


def _attention(q_NHd: Tensor, k_NKd: Tensor) -> ctypes.CDLL | None:
    return library("attention", f"-DWIDTH={q_NHd.shape[2]}", f"-DGROUP={q_NHd.shape[1] // k_NKd.shape[1]}")


def _call(kernels: ctypes.CDLL | None, name: str, first: Tensor, *rest: Tensor | float) -> None:
    function = getattr(kernels, f"{name}_{SUFFIX[first.dtype]}")
    function(first.data_ptr(), *(x.data_ptr() if isinstance(x, Tensor) else x for x in rest))
