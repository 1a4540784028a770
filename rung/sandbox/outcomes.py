"""How one run ended, as a result. Which kind of failure it was may rest on what the program says of itself
(its standard error); whether it failed never does."""

from __future__ import annotations

from typing import Any

from rung.sandbox.box import Outcome
from rung.sandbox.result import Failed, Killed, OutOfMemory, OutputTooLong, Result, Timeout, tail

OUT_OF_MEMORY = (
    b"MemoryError",
    b"std::bad_alloc",
    b"java.lang.OutOfMemoryError",
    b"JavaScript heap out of memory",
    b"fatal error: runtime: out of memory",
    b"fatal error: runtime: cannot allocate memory",
    b"memory allocation of ",
    b"Out_of_memory",
    b"Out of memory",
    b"OutOfMemory",
)


def describe(end: Outcome) -> dict[str, Any]:
    return {
        "stdout": tail(end.stdout),
        "stderr": tail(end.stderr),
        "seconds": end.seconds,
        "cpu_seconds": end.cpu,
        "memory": end.memory,
    }


def ending(end: Outcome, test: int) -> Result | None:
    """None if it ended by itself with status 0."""
    about = describe(end)
    if end.why == "timeout":
        return Timeout(test, **about)
    if end.why == "output":
        return OutputTooLong(test, **about)
    if end.exit == 0 and not end.why:
        return None
    if end.why == "memory" or any(mark in end.stderr[-20000:] for mark in OUT_OF_MEMORY):
        return OutOfMemory(test, **about)
    if end.signal is not None:
        why = "more processes than it may have" if end.why == "processes" else end.why
        return Killed(end.signal, why, test, **about)
    return Failed(test, f"exit status {end.exit}", **about)
