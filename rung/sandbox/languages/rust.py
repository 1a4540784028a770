"""Rust: rustc alone, without cargo and crates. rustup's rustc is a front that needs a home, so it is asked
for the toolchain behind it."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from rung.sandbox.languages.language import Language, Toolchain, outside


def find() -> Toolchain | None:
    root = sysroot()
    if root is None or shutil.which("cc") is None:  # it links with the C compiler
        return None
    rustc = str(root / "bin/rustc")
    return Toolchain(
        ("./main",),
        compile=(rustc, "--edition", "2021", "-C", "opt-level=1", "-o", "main", "main.rs"),
        version=(rustc, "--version"),
        mounts=outside(root),
    )


@functools.cache
def sysroot() -> Path | None:
    """The toolchain's folder; None where there is none or where it does not answer."""
    rustc = shutil.which("rustc")
    if rustc is None:
        return None
    try:
        answer = subprocess.run([rustc, "--print", "sysroot"], capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        return None
    root = Path(answer.stdout.strip())
    return root if answer.returncode == 0 and (root / "bin/rustc").exists() else None


LANGUAGE = Language(
    "rust",
    "Rust",
    "main.rs",
    ("rust", "rs"),
    find,
    "apt-get install rustc",
    'fn main() { println!("hello"); }\n',
)
