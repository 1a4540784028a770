"""Scores on the held-out tasks, kept beside the run's metrics, so that a resumed run knows all of them.

    runs/first/heldout.jsonl        {"step": 40, "scores": [1.0, 0.0, ...]}        one line per evaluation

A line that a killed run left half written goes with the next resume, as do evaluations beyond its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rung.run import write_atomically


@dataclass
class Heldout:
    path: Path | None = None  # None keeps them in memory alone, as ranks other than the first do
    scores: dict[int, tuple[float, ...]] = field(default_factory=dict)  # by the steps done before

    @staticmethod
    def resume(folder: Path, step: int, *, writes: bool) -> Heldout:
        """What had been measured after at most `step` steps."""
        path = folder / "heldout.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        rows = [(line, json.loads(line)) for line in lines if line.endswith(b"\n")]
        kept = [(line, row) for line, row in rows if row["step"] <= step]
        if writes and len(kept) < len(lines):
            write_atomically(path, b"".join(line for line, _ in kept))
        return Heldout(path if writes else None, {row["step"]: tuple(row["scores"]) for _, row in kept})

    def add(self, step: int, scores: Sequence[float]) -> None:
        self.scores[step] = tuple(scores)
        if self.path is not None:
            with open(self.path, "a") as file:
                file.write(json.dumps({"step": step, "scores": list(scores)}) + "\n")

    def before(self, round: int, updates: int) -> tuple[float, ...] | None:
        """The latest measured since the round before began, `updates` being the steps of a round."""
        steps = [step for step in self.scores if (round - 1) * updates < step <= round * updates]
        return self.scores[max(steps)] if steps else None
