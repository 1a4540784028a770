"""Kernel bounds on the memory and processes of a whole sandbox, where this user may make a control group.

Root may everywhere, others where their session was given the controllers. Without one the sandbox still
bounds each process by rlimits and watches their sum; a group closes the 25 ms between two looks and counts
what the kernel holds for the processes. Both versions of the interface are in use: v2 has one tree, v1 one
for each controller.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
LIMITS = {"memory": ("memory.max", "memory.limit_in_bytes"), "pids": ("pids.max", "pids.max")}
OOM_COUNTS = ("memory.events", "memory.oom_control")
STALE = 60.0  # seconds
NAMES = itertools.count()


@dataclass(frozen=True)
class Group:
    """The folders of one group: one under v2, one a controller under v1."""

    folders: tuple[Path, ...]

    def limit(self, memory: int, processes: int) -> None:
        for controller, value in (("memory", memory), ("pids", processes)):
            for folder, name in itertools.product(self.folders, LIMITS[controller]):
                if (folder / name).exists():
                    (folder / name).write_text(str(value))
                    break

    def ran_out(self) -> bool:
        """Whether the kernel has killed something in it for want of memory."""
        for folder, name in itertools.product(self.folders, OOM_COUNTS):
            if (folder / name).exists():
                words = (folder / name).read_text().split()
                counts = dict(zip(words[::2], words[1::2], strict=False))
                return int(counts.get("oom_kill", 0)) > 0
        return False

    def remove(self) -> None:
        """The kernel lets go of a group a moment after its last process."""
        for folder in self.folders:
            for _ in range(50):
                with contextlib.suppress(OSError):
                    folder.rmdir()
                if not folder.exists():
                    break
                time.sleep(0.002)


def make() -> Group | None:
    """A new group, or None where this user cannot have one."""
    folders = []
    for parent in parents():
        folder = parent / f"rung-{os.getpid()}-{next(NAMES)}"
        folder.mkdir(exist_ok=True)
        folders.append(folder)
    return Group(tuple(folders)) if folders else None


@functools.cache
def parents(root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> tuple[Path, ...]:
    """Where groups can be made so that they bound memory and processes; empty if nowhere."""
    if not own.exists():
        return ()
    places = {}
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            places[controller] = path
    if "memory" in places and "pids" in places:
        found = [usable(root / name, places[name], name) for name in ("memory", "pids")]
    else:
        found = [usable(root, places.get("", "/"), "memory", "pids")]
    for folder in found:
        if folder:
            sweep(folder)
    return tuple(folder for folder in found if folder) if all(found) else ()


def sweep(folder: Path) -> None:
    """Remove what processes left that were killed before they could: empty groups of pids that are no more."""
    for left in folder.glob("rung-*-*"):
        pid = left.name.split("-")[1]
        with contextlib.suppress(OSError):
            if not Path("/proc", pid).exists() and time.time() - left.stat().st_mtime > STALE:
                left.rmdir()


def usable(root: Path, path: str, *controllers: str) -> Path | None:
    """The nearest place, from our own group upward, where a child has the files we need."""
    place = root / path.lstrip("/")
    for parent in (place, *place.parents):
        trial = parent / f"rung-{os.getpid()}-trial"
        with contextlib.suppress(OSError):
            trial.mkdir()
            try:
                files = set(os.listdir(trial)) | {"cgroup.procs"}
                good = all(any(name in files for name in LIMITS[each]) for each in controllers)
                if good and os.access(trial / "cgroup.procs", os.W_OK):
                    return parent
            finally:
                trial.rmdir()
        if parent == root:
            return None
    return None
