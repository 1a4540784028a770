"""A folder appears whole or not at all: written under a temporary name, synced to disk, then renamed.

A temporary folder is called `<name>.tmp-<pid>-<random>` and lies beside its target, so that the rename stays
on one file system. A killed process leaves it behind; `sweep` recognises it by name and removes it. Replacing
an existing folder takes two renames; the old one waits as `<name>.old-<pid>-<random>` in between, and if the
process dies just there, `sweep` puts it back.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rung.errors import UserError

UNFINISHED = re.compile(r"(?P<name>.+)\.(?P<kind>tmp|old)-(?P<pid>\d+)-[0-9a-f]{8}")
Existing = Literal["refuse", "keep", "replace"]
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_open: set[Path] = set()  # what this process is writing now: its own pid does not tell, pids come round again


@contextmanager
def publish(path: Path, existing: Existing = "refuse", size: int = 0) -> Iterator[Path]:
    """Yield an empty folder to fill; at the end it becomes `path`. On any exception nothing is left.

    `size`, if known, is how many bytes will be written: too little space is then told before any work.
    If `path` is already a folder with something in it: "refuse" raises UserError, "replace" puts the new one
    in its place, "keep" drops the new one (for a cache, where another process wrote the same thing first).
    """
    if existing == "refuse" and _occupied(path):
        raise UserError(f"{path} already exists and is not empty; give another name or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    require_space(path, size)
    temporary = _beside(path, "tmp")
    temporary.mkdir()
    _open.add(temporary)
    try:
        yield temporary
        sync_tree(temporary)
        _move_into_place(temporary, path, existing)
        _sync(path.parent)
    except OSError as error:
        if error.errno in DISK_FULL:
            need = f" ({size / 1e9:.2f} GB)" if size else ""
            raise UserError(
                f"the disk is full: {path}{need} was not written. Free some space and repeat"
            ) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _open.discard(temporary)


def _move_into_place(temporary: Path, path: Path, existing: str) -> None:
    if existing == "replace" and path.exists():
        old = _beside(path, "old")
        path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old)
        return
    try:
        temporary.rename(path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        if existing != "keep":
            raise UserError(
                f"{path} came into being while it was being written; nothing was changed"
            ) from error


def point(pointer: Path, name: str) -> None:
    """Make the file `pointer` say `name`. A reader sees the old name or the new one, never less."""
    temporary = _beside(pointer, "tmp")
    try:
        temporary.write_text(name + "\n", encoding="utf-8")
        _sync(temporary)
        temporary.replace(pointer)
        _sync(pointer.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(parent: Path, older_than: float = 0.0, name: str = "") -> list[Path]:
    """Clear away what killed processes left in `parent`, of one target if it is named; the paths removed or put back.

    What a living process is writing stays. Processes are told apart by pid, which says nothing of another
    machine: where one may write to the same folder, spare what is younger than `older_than` seconds.
    """
    swept = []
    for path in sorted(parent.iterdir()) if parent.is_dir() else []:
        match = UNFINISHED.fullmatch(path.name)
        if match is None or name not in ("", match["name"]):
            continue
        if path in _open or _other_process_alive(int(match["pid"])):
            continue
        if time.time() - path.stat().st_mtime < older_than:
            continue
        target = path.with_name(match["name"])
        if match["kind"] == "old" and not target.exists():
            path.rename(target)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        swept.append(path)
    return swept


def require_space(path: Path, size: int) -> None:
    """Raise UserError unless `size` bytes more fit on the disk of `path`, which need not exist yet."""
    folder = next(p for p in (path, *path.resolve().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"{path} needs {size / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free; "
            "nothing was written. Free some space or write elsewhere"
        )


def sync_tree(folder: Path) -> None:
    """Force every file and folder below `folder` to disk: a rename must not overtake what it names."""
    for root, _, files in os.walk(folder):
        for file in files:
            _sync(Path(root, file))
        _sync(Path(root))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}")


def _occupied(path: Path) -> bool:
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def _other_process_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
