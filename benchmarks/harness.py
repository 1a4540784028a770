"""What the benchmarks share: a fresh process per measurement, turns, medians, and the one report they print.

A measurement is a dict with a rate, such as `tokens_per_second`, and `peak_memory` in GB (10^9 bytes). The
contestants take turns, so that a busy minute of the machine spoils a turn of each and not all turns of one,
and medians count.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rung.errors import RunStopped, UserError
from rung.machine import machine_summary

CHECKOUT = Path(__file__).parent.parent
REPORT_KEYS = (
    "name", "work", "ours", "peers", "peer", "ratio", "peak_memory_ratio", "runs", "machine",
)  # fmt: skip

Measurement = dict[str, Any]


def fresh_process(
    name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[str, float]:
    """The standard output of a command and the most resident memory that its process held, in GB.

    The kernel keeps that peak per process, so it needs no help from the program measured. A process starts
    with the peak of the one that started it: the benchmark's own process must stay smaller than what it
    measures.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
            env=os.environ | dict(environment or {}),
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            process.wait()
            raise
        for file in (out, err):
            file.seek(0)
        if process.returncode:
            tail = err.read().decode(errors="replace")[-4000:]
            raise RunStopped(f"{name} ended with status {process.returncode}; its last words:\n{tail}", 1)
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
        return out.read().decode(), usage.ru_maxrss * unit / 1e9


def take_turns(
    contestants: Mapping[str, Callable[[], Measurement]], runs: int, say: Callable[[str, Measurement], None]
) -> dict[str, list[Measurement]]:
    """A B C A B C ...: every contestant once a run."""
    if runs < 1:
        raise UserError(f"--runs is {runs}; write 1 or more")
    found: dict[str, list[Measurement]] = {name: [] for name in contestants}
    for _ in range(runs):
        for name, measure in contestants.items():
            found[name].append(measure())
            say(name, found[name][-1])
    return found


def medians(measurements: Sequence[Measurement], keys: Sequence[str]) -> Measurement:
    return {key: statistics.median(one[key] for one in measurements) for key in keys}


def report(
    name: str,
    work: str,
    ours: Measurement,
    peers: dict[str, Measurement],
    *,
    peer: str | None,
    rate: str,
    runs: dict[str, list[Measurement]],
    **more: Any,
) -> dict[str, Any]:
    """The object that `--json` prints last; `ratio` and `peak_memory_ratio` are those over the named peer."""
    peers = {
        name: one
        | {"ratio": ours[rate] / one[rate], "peak_memory_ratio": ours["peak_memory"] / one["peak_memory"]}
        for name, one in peers.items()
    }
    return {
        "name": name,
        "work": work,
        "ours": ours,
        "peers": peers,
        "peer": peer,
        "ratio": peers[peer]["ratio"] if peer else None,
        "peak_memory_ratio": peers[peer]["peak_memory_ratio"] if peer else None,
        "runs": runs,
        **more,
        "machine": machine_summary(),
    }
