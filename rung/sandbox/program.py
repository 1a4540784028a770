"""What is run, what it is tested with, and what it may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from rung.errors import UserError


@dataclass(frozen=True)
class Case:
    """One run: this on standard input must give that on standard output. Compared outside the sandbox."""

    stdin: str | bytes
    stdout: str | bytes


@dataclass(frozen=True)
class Checks:
    """Python tests that call the program's functions; they run in a sandbox of their own.

    `statements` are tests, each of them Python source that raises when the program is wrong (`assert f(2) == 4`).
    `setup` is trusted code that runs before them: imports, helpers, HumanEval's prompt and `check`. Names the
    tests use and nobody defines are looked up in the program, and `entry` names further ones.
    """

    statements: tuple[str, ...]
    setup: str = ""
    entry: tuple[str, ...] = ()

    @staticmethod
    def human_eval(prompt: str, test: str, entry_point: str) -> Checks:
        """The format of HumanEval: `test` defines check(candidate); `prompt` may hold helpers it uses."""
        return Checks((f"check({entry_point})",), f"{prompt}\n    pass\n\n{test}\n", (entry_point,))


@dataclass(frozen=True)
class Program:
    """Source in one language. Without tests it is run once, and passes if it ends with status 0.

    Ending with status 0 is the program's own claim; only tests say that it is right.
    """

    language: str
    code: str
    tests: tuple[Case, ...] | Checks = ()
    stdin: str | bytes = b""  # where there are no tests
    argv: tuple[str, ...] = ()
    files: Mapping[str, str | bytes] = field(default_factory=dict)  # relative path -> content

    def __post_init__(self) -> None:
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
                raise UserError(
                    f"the file {name!r} would lie outside the program's folder; give a relative path"
                )
        if isinstance(self.tests, Checks) and not self.tests.statements:
            raise UserError("checks without a statement would pass every program; give at least one assert")
        if isinstance(self.tests, Checks) and self.language != "python":
            raise UserError(f"checks call Python functions, and this program is {self.language}; use cases")


@dataclass(frozen=True)
class Limits:
    """Bounds on one run of a program, and on all its runs together. Sizes are bytes."""

    seconds: float = 10.0  # wall clock of one test
    total_seconds: float = 60.0  # of all its tests, without compiling
    compile_seconds: float = 60.0
    memory: int = 512 << 20  # of all its processes together; a language's runtime adds its own
    processes: int = 64  # threads count
    output: int = 1 << 20  # stdout and stderr together
    disk: int = 64 << 20  # all it may write, memory-backed
    files: int = 256  # open at once

    def __post_init__(self) -> None:
        bad = [name for name, value in vars(self).items() if not value > 0]
        if bad:
            raise UserError(f"the limit {bad[0]} is {getattr(self, bad[0])}; a limit must be above 0")


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
