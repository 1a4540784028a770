"""The only file that knows about ranks. Alone, every function here is a no-op.

Data parallel: each rank takes every `world()`-th micro-batch of a step, sums and counts are added over
ranks, and so is the gradient, before the one division. Start with torchrun; more is not here yet.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def start() -> None:
    """Join the group that torchrun's environment names; nothing if there is none."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def stop() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def add_tensors(tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over ranks, in place."""
    if world() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def add_numbers(numbers: dict[str, float]) -> dict[str, float]:
    """Sum each number over ranks. Ranks may hold different names; a missing one counts 0."""
    if world() == 1:
        return numbers
    gathered: list[dict[str, float]] = [{} for _ in range(world())]
    dist.all_gather_object(gathered, numbers)
    return {name: sum(part.get(name, 0.0) for part in gathered) for part in gathered for name in part}


def gather_objects(mine: list) -> list:
    """Every rank's list, in order of ranks, as one."""
    if world() == 1:
        return mine
    gathered: list[list] = [[] for _ in range(world())]
    dist.all_gather_object(gathered, mine)
    return [item for part in gathered for item in part]


def largest_numbers(numbers: dict[str, float]) -> dict[str, float]:
    """The largest of each number over ranks, which may hold different names."""
    largest: dict[str, float] = {}
    for name, value in gather_objects(list(numbers.items())):
        largest[name] = max(value, largest.get(name, value))
    return largest


def first_rank_says(value: str) -> str:
    """Rank 0's value, on every rank."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def any_rank(flag: bool) -> bool:
    return bool(add_numbers({"flag": float(flag)})["flag"])


def wait() -> None:
    if world() > 1:
        dist.barrier()
