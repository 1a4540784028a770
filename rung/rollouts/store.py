"""Every rollout of a run, kept: one Parquet file per round, there whole or not at all, never rewritten.

    runs/first/rollouts/round-000012.parquet      one row per rollout, in the order they were graded

A round is built in memory, written under a temporary name, synced, renamed. What was kept comes back bit for
bit: ids, masks, every float. The columns are wide and flat, so that duckdb and pandas find their way:
`select task, avg(reward) from 'runs/first/rollouts/*.parquet' group by task`. A reward is null where the
verdict is an abstention or a failure, for neither is a number.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rung.errors import UserError
from rung.publish import DISK_FULL
from rung.rollouts.columns import KEY, SCHEMA, SCHEMA_VERSION, Graded, records_of, rollout_id, table
from rung.run import write_atomically

__all__ = ["Graded", "RolloutStore", "rollout_id"]

FILE = re.compile(r"round-(\d{6,})\.parquet")
ROWS_AT_ONCE = 256  # rows of a row group: what a reader holds in memory at a time


@dataclass(frozen=True)
class RolloutStore:
    """The rollouts of the run in `folder`. One process writes; any number read meanwhile."""

    folder: Path
    decode: Callable[[list[int]], str] | None = None  # prompt ids -> text, for readers without a tokenizer

    def path(self, round: int) -> Path:
        return Path(self.folder) / "rollouts" / f"round-{round:06d}.parquet"

    def rounds(self) -> list[int]:
        """The rounds that are there, in order."""
        names = (FILE.fullmatch(path.name) for path in self.path(0).parent.glob("round-*.parquet"))
        return sorted(int(name[1]) for name in names if name)

    def write(self, round: int, records: Sequence[Graded]) -> Path:
        """Keep a round. On any failure there is no trace of it."""
        path = self.path(round)
        if path.exists():
            raise UserError(
                f"{path} exists, and a round is never rewritten; a run that goes back to a checkpoint "
                "first drops the rounds after it (discard_after)"
            )
        content = encoded(table(round, records, self.decode))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise UserError(
                f"the disk is full: {path} ({len(content) / 1e6:.1f} MB) was not written. "
                "Free some space and resume the run"
            ) from error
        return path

    def read(self, round: int) -> list[Graded]:
        """A round as it was written."""
        if round not in (there := self.rounds()):
            have = f"there are {there[0]} to {there[-1]}" if there else "there are none yet"
            raise UserError(f"{self.folder} holds no rollouts of round {round}; {have}")
        with opened(self.path(round)) as file:
            batches = [batch for batch in guarded(file.iter_batches(ROWS_AT_ONCE), self.path(round))]
        return [record for batch in batches for record in records_of(batch)]

    def scan(
        self, columns: Sequence[str] | None = None, rounds: Sequence[int] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Rows as dicts, a few hundred in memory at a time, only the columns asked for; newest round last."""
        unknown = [name for name in columns or () if name not in SCHEMA.names]
        if unknown:
            raise KeyError(
                f"rollouts have no column {', '.join(unknown)}; there are {', '.join(SCHEMA.names)}"
            )
        names = list(columns) if columns is not None else None
        for round in self.rounds() if rounds is None else rounds:
            path = self.path(round)
            with opened(path) as file:
                for batch in guarded(file.iter_batches(ROWS_AT_ONCE, columns=names), path):
                    yield from batch.to_pylist(maps_as_pydicts="strict")

    def discard_after(self, round: int) -> int:
        """Drop the rounds after `round`, which a resumed run will make again; how many there were.

        The newest goes first, so that a kill in between leaves no gap. What a killed writer left goes too.
        """
        beyond = [later for later in self.rounds() if later > round]
        for later in reversed(beyond):
            self.path(later).unlink()
        for leftover in self.path(0).parent.glob(".round-*.parquet.tmp"):
            leftover.unlink()
        return len(beyond)


def encoded(rows: pa.Table) -> bytes:
    """The bytes of a Parquet file. Checksums, so that a flipped bit is noticed. Only texts go through
    dictionaries: one of floats would take all kinds of nan for the same."""
    sink = pa.BufferOutputStream()
    texts = [field.name for field in SCHEMA if field.type == pa.string()]
    pq.write_table(
        rows,
        sink,
        row_group_size=ROWS_AT_ONCE,
        compression="zstd",
        use_dictionary=texts,
        write_page_checksum=True,
    )
    return sink.getvalue().to_pybytes()


def opened(path: Path) -> pq.ParquetFile:
    """A round's file, known to be one and whole."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error
    mark = (file.schema_arrow.metadata or {}).get(KEY)
    if mark is None:
        raise UserError(f"{path} is a Parquet file that rung did not write; move it out of the run folder")
    version = json.loads(mark)["schema"]
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} was written by a newer rung (schema {version}, this one reads {SCHEMA_VERSION}); upgrade rung"
        )
    return file


def guarded(batches: Iterator[pa.RecordBatch], path: Path) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    size = os.path.getsize(path) if path.exists() else 0
    return UserError(
        f"{path} ({size} bytes) is damaged or no Parquet file ({reason}); rung writes a round whole or not at "
        "all, so something else changed it. Restore it from a copy or delete it: the other rounds are readable"
    )
