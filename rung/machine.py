"""What this machine is and how fast it multiplies matrices.

The share of the peak that a run reports divides by a peak measured here, on this machine, in the dtype of
the run, and not by a number from a data sheet. torch is imported inside the functions that need it.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CPU_SIZES = ((512, 512, 512), (1024, 1024, 1024), (2048, 1024, 1024), (512, 2048, 2048))
CUDA_SIZES = ((4096, 4096, 4096), (8192, 8192, 8192), (8192, 4096, 8192))


def share_cores() -> None:
    """Let OpenMP threads wait briefly and then sleep; call it before torch is imported.

    By default they spin for milliseconds at every barrier. Alone on a machine that gains nothing measurable;
    beside other busy processes each spinning thread takes the core its partner needs, and training was
    seen to slow down tenfold. What the environment already says is kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # oneDNN keeps the machine code of its last 1,024 products. In training every micro-batch has its own sizes, so
    # few but the current micro-batch's dozen are asked for again.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


def cache_root() -> Path:
    """`$RUNG_CACHE`, else `$XDG_CACHE_HOME/rung`, else `~/.cache/rung`: everything that can be made again."""
    root = os.environ.get("RUNG_CACHE")
    if not root:
        root = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "rung"))
    return Path(root).expanduser()


def matrix_peak(dtype: torch.dtype, device: torch.device | str = "cpu", seconds: float = 0.4) -> float:
    """The best FLOP/s of a few product shapes: a peak is what the machine can do when undisturbed.

    Shapes vary because libraries differ in where they shine: small enough for the cache of a CPU, large
    enough to occupy every core of a GPU. They take turns until `seconds` are over, so that a neighbour who
    is busy for a moment spoils a turn of each and not all turns of one. Where a dtype is so slow that a
    shape would outlast them all (float16 on many CPUs), the smaller ones have the word.
    """
    import torch

    device = torch.device(device)
    # On a GPU several products go out at once, so that launching does not count.
    shapes, burst = (CUDA_SIZES, 10) if device.type == "cuda" else (CPU_SIZES, 1)
    operands: list[tuple[float, torch.Tensor, torch.Tensor]] = []
    best = 0.0
    for rows, inner, columns in shapes:
        work = 2.0 * rows * inner * columns
        if best and work / best > seconds:
            break
        left, right = (
            torch.randn(shape, device=device).to(dtype) for shape in ((rows, inner), (inner, columns))
        )
        operands.append((work, left, right))
        best = max(best, work / product_seconds(left, right, 1))  # also pays for set-up
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for work, left, right in operands:
            best = max(best, burst * work / product_seconds(left, right, burst))
    return best


def product_seconds(left: torch.Tensor, right: torch.Tensor, times: int) -> float:
    import torch

    wait(left.device)
    started = time.perf_counter()
    for _ in range(times):
        torch.matmul(left, right)
    wait(left.device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def usable_cores() -> int:
    """Those this process may run on, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_summary() -> dict[str, Any]:
    """The machine in words and numbers, as benchmarks and run folders record it."""
    import psutil
    import torch

    summary: dict[str, Any] = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "cpu_features": cpu_features(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "devices": [],
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        summary["devices"].append(
            {
                "name": properties.name,
                "memory_gb": round(properties.total_memory / 1e9, 1),
                "capability": f"{properties.major}.{properties.minor}",
                "cuda": torch.version.cuda,
            }
        )
    if torch.backends.mps.is_available():
        summary["devices"].append({"name": "Apple GPU (mps)"})
    return summary


def cpu_info() -> dict[str, str]:
    """/proc/cpuinfo of the first core; empty where there is no such file."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name() -> str:
    return cpu_info().get("model name") or platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """The instruction sets that decide how fast bf16 and float32 products are."""
    flags = cpu_info().get("flags", cpu_info().get("Features", "")).split()
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "sve") if name in flags]
