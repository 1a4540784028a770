"""The most memory this process has used, and giving back what it no longer uses. Gigabytes of 10^9."""

from __future__ import annotations

import ctypes
import resource
import sys


def peak_memory(device) -> float:
    """Resident set on a CPU, allocator peak on a GPU."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def give_back() -> None:
    """Return the pages between live blocks to the system, where the C library can (glibc).

    Every micro-batch has another number of tokens, so its tensors leave gaps that the next one's do not fit. Without
    this a run's resident set grows for as long as it lasts: a reward model's was seen to go from 3.1 to 6.5 GB in 100 steps.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
