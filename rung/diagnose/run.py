"""A run folder as the detectors want it: numbers by step, rollouts by round, and what a detector has to say.

A detector takes a `Trace` and returns a `Look`: what it saw in one line, what it found, and, if it could not look,
why not. Not having looked is never health, so both are always said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rung.diagnose.health import Finding
from rung.errors import UserError
from rung.rollouts.store import RolloutStore
from rung.run import Run

LEVEL = 0.01  # of each detector outside Health, whose own is 0.05


@dataclass(frozen=True)
class Look:
    """What one detector has to say of a run."""

    name: str
    saw: str = ""  # what was looked at, in numbers
    unseen: str = ""  # why it could not look, or not fully
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Group:
    """The attempts at one prompt in one round: rows of the store."""

    round: int
    rows: tuple[dict[str, Any], ...]

    @property
    def texts(self) -> list[str]:
        return [row["text"] for row in self.rows]


@dataclass(frozen=True)
class Trace:
    """What a run left behind. Made by `read_trace`, or by hand in a test."""

    rows: Sequence[dict[str, float]] = ()
    config: dict[str, Any] = field(default_factory=dict)
    store: RolloutStore | None = None
    ending: str = ""  # why it ended, in its own words

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of a metric, where it was logged."""
        known = [(row["step"], row[name]) for row in self.rows if name in row]
        steps, values = zip(*known, strict=True) if known else ((), ())
        return np.array(steps, dtype=int), np.array(values, dtype=float)

    def setting(self, name: str) -> Any:
        return (self.config.get("settings") or {}).get(name)

    @property
    def command(self) -> str:
        return str(self.config.get("command", ""))

    @cached_property
    def rounds(self) -> list[int]:
        return self.store.rounds() if self.store else []

    def ends(self, at_most: int = 16) -> tuple[list[int], list[int]]:
        """The first and the last quarter of the rounds with rollouts, of each at most so many."""
        count = min(len(self.rounds) // 4, at_most)
        return (self.rounds[:count], self.rounds[-count:]) if count else ([], [])

    def groups(self, rounds: Sequence[int], columns: Sequence[str]) -> Iterator[Group]:
        assert self.store is not None
        for round in rounds:
            by_group: dict[int, list[dict[str, Any]]] = {}
            for row in self.store.scan(["id", "group", *columns], [round]):
                by_group.setdefault(row["group"], []).append(row)
            yield from (Group(round, tuple(rows)) for rows in by_group.values())


def read_trace(path: str | Path) -> Trace:
    """A run folder, without writing to it; the run may still be going on."""
    run = Run.open(path)
    try:
        config, rows, status = run.config(), run.metrics(), run.status()
    except (OSError, ValueError, AttributeError, KeyError) as error:  # damaged by something else than rung
        raise UserError(f"{path} cannot be read as a run: {error}; restore it from a copy") from error
    if not isinstance(config, dict) or not all(isinstance(row.get("step"), int) for row in rows):
        raise UserError(f"{path} cannot be read as a run: its config or rows are of another form")
    store = RolloutStore(run.path)
    return Trace(rows, config, store if store.rounds() else None, str(status.get("reason") or ""))
