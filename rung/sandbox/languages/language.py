"""What a language is to the sandbox: a toolchain found or how to get it, a file, a compile and a run command.

Commands run in the program's folder; `{memory_mb}` in them becomes the program's memory limit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Toolchain:
    run: tuple[str, ...]  # an absolute path and its arguments
    compile: tuple[str, ...] = ()  # empty: nothing to compile
    version: tuple[str, ...] = ()  # the command that prints it
    mounts: tuple[str, ...] = ()  # folders it needs beside the system's, read-only
    environment: Mapping[str, str] = field(default_factory=dict)
    extra_files: Mapping[str, str] = field(default_factory=dict)  # written beside the program
    runtime_memory: int = 0  # what its runtime takes before the program has anything
    runtime_processes: int = 0  # threads of the runtime
    compile_memory: int = 2 << 30
    compile_disk: int = 256 << 20  # what the compiler writes; caches too


@dataclass(frozen=True)
class Language:
    name: str
    title: str
    file: str  # the program's source
    fences: tuple[str, ...]  # the words after ``` that mean it
    find: Callable[[], Toolchain | None]
    install: str  # the command that gets its toolchain
    hello: str  # a program that must end with status 0: it tells a broken toolchain from a broken program


def which(name: str) -> str | None:
    """A program on the PATH, with links followed: inside, only the real file's folder may exist."""
    path = shutil.which(name)
    return str(Path(path).resolve()) if path else None


def outside(*paths: str | Path) -> tuple[str, ...]:
    """Those of the folders that the sandbox does not mount anyway."""
    return tuple(str(path) for path in paths if not Path(path).is_relative_to("/usr"))
