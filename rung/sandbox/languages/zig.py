"""Zig, from the PATH or from the wheel `ziglang`, which carries the whole toolchain."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from rung.sandbox.languages.language import Language, Toolchain, outside, which


def find() -> Toolchain | None:
    zig = which("zig") or wheel()
    if zig is None:
        return None
    return Toolchain(
        ("./main",),
        compile=(zig, "build-exe", "main.zig", "-femit-bin=main"),
        version=(zig, "version"),
        mounts=outside(Path(zig).parent),
        environment={"ZIG_GLOBAL_CACHE_DIR": "/tmp/zig", "ZIG_LOCAL_CACHE_DIR": "/tmp/zig"},
        compile_disk=512 << 20,
    )


def wheel() -> str | None:
    found = importlib.util.find_spec("ziglang")
    places = (
        [Path(place) / "zig" for place in (found.submodule_search_locations or []) if found] if found else []
    )
    return next((str(place.resolve()) for place in places if os.access(place, os.X_OK)), None)


LANGUAGE = Language(
    "zig",
    "Zig",
    "main.zig",
    ("zig",),
    find,
    "pip install ziglang",
    'pub fn main() void {\n    @import("std").debug.print("hello\\n", .{});\n}\n',
)
