"""Python: the interpreter that runs rung, without its virtual environment: the standard library alone."""

from __future__ import annotations

from rung.sandbox import bubblewrap
from rung.sandbox.languages.language import Language, Toolchain


def find() -> Toolchain:
    python = bubblewrap.python()
    return Toolchain((python, "main.py"), version=(python, "--version"), mounts=bubblewrap.python_mounts())


LANGUAGE = Language(
    "python", "Python", "main.py", ("python", "py", "python3"), find, "it runs rung", 'print("hello")\n'
)
