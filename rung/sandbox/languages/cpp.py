"""C++20 with g++ or clang++."""

from __future__ import annotations

import shutil
from pathlib import Path

from rung.sandbox.languages.language import Language, Toolchain, outside


def find() -> Toolchain | None:
    compiler = shutil.which("g++") or shutil.which("clang++")  # by this name: it decides the language
    if compiler is None:
        return None
    homes = {Path(compiler).parent.parent, Path(compiler).resolve().parent.parent}
    return Toolchain(
        ("./main",),
        compile=(compiler, "-std=c++20", "-O1", "-pipe", "-o", "main", "main.cpp"),
        version=(compiler, "--version"),
        mounts=outside(*sorted(homes)),
    )


LANGUAGE = Language(
    "cpp",
    "C++",
    "main.cpp",
    ("cpp", "c++", "cxx", "cc"),
    find,
    "apt-get install g++",
    '#include <cstdio>\nint main() { std::puts("hello"); }\n',
)
