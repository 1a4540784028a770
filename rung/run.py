"""A run is a folder of plain files that everything reads and nothing owns.

    config.json              what was asked, with versions and digests; written once
    metrics.jsonl            one object per logged step, appended and flushed line by line
    metrics.discarded.jsonl  rows beyond the checkpoint that a resumed run went back to
    status.json              running, finished, stopped or failed, with the reason and the process
    checkpoints/step-000100/ and LATEST, which names the newest complete one

`METRICS` says what every number means, in which unit, and where it is healthy; a name that is not in the
table cannot be logged. Reading a run never writes to it, so a live one can be watched.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rung.errors import UserError
from rung.metrics import METRICS, metric_of

__all__ = ["METRICS", "Run", "write_atomically"]

State = Literal["running", "finished", "stopped", "failed", "killed"]


@dataclass(frozen=True)
class Run:
    """A run folder. `create` and `resume` write to it, `open` only reads."""

    path: Path

    @staticmethod
    def create(path: str | Path, config: dict[str, Any]) -> Run:
        """Make the folder of a new run; one that holds anything is refused."""
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(
                f"{path} exists and is not empty, and a run never writes over another; "
                "continue it with --resume, or choose another folder with --out"
            )
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"versions": versions(), **config}, indent=2, default=str) + "\n"
        write_atomically(path / "config.json", text)
        run = Run(path)
        run.write_status("running")
        return run

    @staticmethod
    def open(path: str | Path) -> Run:
        """A run to read. The folder may belong to a live process and is left as it is."""
        run = Run(Path(path))
        if not (run.path / "config.json").is_file():
            raise UserError(f"{path} is not a run: it has no config.json; `rung runs list` shows the runs")
        return run

    @staticmethod
    def resume(path: str | Path) -> Run:
        """A run to continue: refused while another process writes it; a torn last row is dropped."""
        run = Run.open(path)
        status = run.status()
        if status["state"] == "running" and status.get("pid") != os.getpid():
            raise UserError(
                f"{path} is being written by process {status.get('pid')} on {status.get('host')}; "
                "stop it first, or delete status.json if you know that it is gone"
            )
        content = read_bytes(run.metrics_path)
        if not content.endswith(b"\n") and content:
            write_atomically(run.metrics_path, content[: content.rfind(b"\n") + 1])
        run.write_status("running")
        return run

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    def config(self) -> dict[str, Any]:
        return json.loads((self.path / "config.json").read_text(encoding="utf-8"))

    # ---- metrics ----

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Append one row. Infinite and undefined numbers are written as text, since JSON has none."""
        unknown = [name for name in metrics if metric_of(name) is None]
        if unknown:
            raise KeyError(f"not in the table of metrics (rung/metrics.py): {', '.join(unknown)}")
        row = {"step": step, "time": round(time.time(), 3)} | {k: encode(v) for k, v in metrics.items()}
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, float]]:
        """The rows so far. What follows the last newline is still being written, or was torn by a kill."""
        return [
            {name: float(value) if isinstance(value, str) else value for name, value in row.items()}
            for row, _ in self.rows()
        ]

    def rows(self) -> list[tuple[dict[str, Any], bytes]]:
        """Each complete row with the line it stands on."""
        found = []
        for number, line in enumerate(read_bytes(self.metrics_path).split(b"\n")[:-1], 1):
            try:
                found.append((json.loads(line), line + b"\n"))
            except ValueError as error:
                raise UserError(f"{self.metrics_path}:{number}: not a row of JSON ({error})") from error
        return found

    def sync(self) -> None:
        """Put the rows on disk; called before a checkpoint that they belong to becomes the latest."""
        if self.metrics_path.exists():
            with self.metrics_path.open("rb") as file:
                os.fsync(file.fileno())

    def rewind(self, step: int) -> int:
        """Move the rows beyond `step` to metrics.discarded.jsonl; how many there were.

        The discarded rows are safe before the others are shortened. A kill in between leaves them in both
        files, and the next rewind recognises the tail that it has already written.
        """
        rows = self.rows()
        kept = b"".join(line for row, line in rows if row["step"] <= step)
        beyond = b"".join(line for row, line in rows if row["step"] > step)
        if beyond:
            discarded = self.path / "metrics.discarded.jsonl"
            before = read_bytes(discarded)
            if not before.endswith(beyond):
                write_atomically(discarded, before + beyond)
            write_atomically(self.metrics_path, kept)
        return beyond.count(b"\n")

    # ---- checkpoints ----

    def checkpoint_path(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def set_latest(self, step: int) -> None:
        """Point LATEST at a complete checkpoint; the last act of saving one."""
        self.sync()
        write_atomically(self.path / "LATEST", self.checkpoint_path(step).name + "\n")

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        pointer = self.path / "LATEST"
        if not pointer.exists():
            return None
        return self.path / "checkpoints" / pointer.read_text(encoding="utf-8").strip()

    # ---- state ----

    def finish(self, reason: str = "did every step asked for") -> None:
        self.write_status("finished", reason)

    def stop(self, reason: str) -> None:
        """The run ended early but in order: interrupted, or told to by a rule."""
        self.write_status("stopped", reason)

    def fail(self, reason: str) -> None:
        self.write_status("failed", reason)

    def write_status(self, state: State, reason: str = "") -> None:
        status: dict[str, Any] = {
            "state": state,
            "reason": reason,
            "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        status |= {"pid": os.getpid(), "host": socket.gethostname(), "process_started": started(os.getpid())}
        write_atomically(self.path / "status.json", json.dumps(status, indent=2) + "\n")

    def status(self) -> dict[str, Any]:
        """status.json, where a running state whose process is gone reads as killed."""
        path = self.path / "status.json"
        if not path.exists():
            return {"state": "killed", "reason": "ended before it began"}
        status = json.loads(path.read_text(encoding="utf-8"))
        here = status["host"] == socket.gethostname()
        if status["state"] == "running" and here and started(status["pid"]) != status["process_started"]:
            status |= {"state": "killed", "reason": f"process {status['pid']} is gone without a word"}
        return status


def started(pid: int) -> float | None:
    """When a process began, or None if there is none: with the pid it names a process for good."""
    import psutil

    try:
        return round(psutil.Process(pid).create_time(), 1)
    except psutil.NoSuchProcess:
        return None


def versions() -> dict[str, str]:
    """What a run may depend on. Read from package metadata, so nothing is imported."""
    names = ("rung", "torch", "transformers", "tokenizers", "safetensors", "numpy")
    found = {d.name: d.version for name in names for d in importlib.metadata.distributions(name=name)}
    return {"python": platform.python_version()} | found


def encode(value: float) -> float | str:
    number = value if isinstance(value, bool | int) else float(value)
    return number if math.isfinite(number) else str(number)


def read_bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file in one step that survives a power cut: a reader sees the old content or the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:  # a full disk must not leave half a file
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
