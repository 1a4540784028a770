"""The most memory this process has used: resident set on a CPU, allocator peak on a GPU. Gigabytes of 10^9."""

from __future__ import annotations

import resource
import sys


def peak_memory(device) -> float:
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
