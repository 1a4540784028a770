"""How a program ended. Every ending is a type; only Passed means that it did what was asked.

Broken and Missing say nothing about the program: the harness failed, or its language is not on this machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TAIL = 4000  # characters of output kept in a result


@dataclass(frozen=True)
class Result:
    """`passed` of `total` tests; output, times and memory are those of the run that decided."""

    stdout: str = field(default="", kw_only=True)  # the end of it; bytes that are no UTF-8 show as U+FFFD
    stderr: str = field(default="", kw_only=True)
    seconds: float = field(default=0.0, kw_only=True)
    cpu_seconds: float = field(default=0.0, kw_only=True)
    memory: int = field(default=0, kw_only=True)  # peak bytes of its largest process
    passed: int = field(default=0, kw_only=True)
    total: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class Passed(Result):
    """Every test passed; without tests: it ended with status 0."""


@dataclass(frozen=True)
class Failed(Result):
    """It ended, and it was wrong."""

    test: int  # which one, from 0
    why: str  # "wrong output", "exit status 1", ...
    expected: str = ""
    got: str = ""


@dataclass(frozen=True)
class CompileError(Result):
    """The compiler refused it, or used up its limits on it; stderr says what it said."""


@dataclass(frozen=True)
class Timeout(Result):
    test: int = 0


@dataclass(frozen=True)
class OutOfMemory(Result):
    test: int = 0


@dataclass(frozen=True)
class Killed(Result):
    """By a signal: its own crash, or ours for too many processes."""

    signal: int
    why: str = ""
    test: int = 0


@dataclass(frozen=True)
class OutputTooLong(Result):
    test: int = 0


@dataclass(frozen=True)
class Missing(Result):
    """The language's toolchain is not here; `install` says how to get it."""

    language: str
    install: str


@dataclass(frozen=True)
class Broken(Result):
    """The harness failed: a test that is no Python, a compiler that hangs on anything, a sandbox that died."""

    detail: str
    kind: str = "crash"  # as in rung.rewards.score.Failure


def tail(data: bytes, characters: int = TAIL) -> str:
    text = data[-4 * characters :].decode("utf-8", "replace")
    return text if len(text) <= characters else "... " + text[-characters:]
