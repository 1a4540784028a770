"""The run folder: refused overwrites, torn rows, rewinding that survives a kill at any moment."""

import contextlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.errors import UserError
from rung.metrics import METRICS, out_of_range
from rung.run import Run, write_atomically


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "a" / "run", {"settings": {"seed": 1}, "out": Path("x")})


def lines(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_new_run_writes_what_it_was_asked(run):
    config = run.config()
    assert config["settings"] == {"seed": 1}
    assert config["out"] == "x"
    assert config["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "numpy"} <= config["versions"].keys()
    assert run.status()["state"] == "running"
    assert Run.open(run.path).metrics() == []


def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not empty.*--resume.*--out"):
        Run.create(tmp_path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(UserError, match="not empty"):
        Run.create(tmp_path / "notes.txt", {})
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", {})


def test_only_a_run_can_be_opened(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        Run.open(tmp_path / "gone")


def test_rows_are_on_file_as_soon_as_they_are_logged(run):
    run.log(1, {"loss": 2.5, "grad_norm": math.inf})
    assert json.loads(run.metrics_path.read_text())["grad_norm"] == "inf"  # JSON has no infinity
    run.log(2, {"loss": math.nan})
    first, second = run.metrics()
    assert (first["step"], first["loss"], first["grad_norm"]) == (1, 2.5, math.inf)
    assert math.isnan(second["loss"])
    assert abs(first["time"] - time.time()) < 60


def test_an_unknown_metric_cannot_be_logged(run):
    with pytest.raises(KeyError, match="los, gradnorm"):
        run.log(1, {"loss": 1.0, "los": 1.0, "gradnorm": 2.0})
    assert run.metrics() == []


def test_a_torn_last_row_is_ignored_by_readers_and_dropped_on_resume(run):
    run.log(1, {"loss": 2.0})
    whole = run.metrics_path.read_bytes()
    run.metrics_path.write_bytes(whole + b'{"step": 2, "lo')
    assert [row["step"] for row in Run.open(run.path).metrics()] == [1]
    assert run.metrics_path.read_bytes() != whole  # a reader repairs nothing: the writer may be alive
    resumed = Run.resume(run.path)
    assert run.metrics_path.read_bytes() == whole
    resumed.log(2, {"loss": 1.0})
    assert [row["step"] for row in resumed.metrics()] == [1, 2]


@settings(max_examples=40)
@given(cut=st.integers(0, 200))
def test_a_cut_at_any_byte_keeps_every_whole_row(tmp_path_factory, cut):
    run = Run.create(tmp_path_factory.mktemp("run") / "r", {})
    for step in range(3):
        run.log(step, {"loss": 1.0})
    whole = run.metrics_path.read_bytes()
    run.metrics_path.write_bytes(whole[:cut])
    expected = whole[:cut].count(b"\n")
    assert len(run.metrics()) == expected
    Run.resume(run.path).log(9, {"loss": 1.0})
    assert [row["step"] for row in run.metrics()] == [*range(expected), 9]


def test_a_broken_row_in_the_middle_is_named(run):
    run.metrics_path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2"):
        run.metrics()


def test_rewind_moves_the_rows_beyond_a_step(run):
    for step in range(1, 6):
        run.log(step, {"loss": float(step)})
    assert run.rewind(3) == 2
    assert lines(run.metrics_path) == [1, 2, 3]
    assert lines(run.path / "metrics.discarded.jsonl") == [4, 5]
    assert run.rewind(3) == 0
    run.log(4, {"loss": 9.0})
    assert run.rewind(2) == 2
    assert lines(run.path / "metrics.discarded.jsonl") == [4, 5, 3, 4]


class HalfWritten(io.FileIO):
    """A file whose process is killed in the middle of a write."""

    def write(self, data):
        super().write(data[: len(data) // 2])
        raise KeyboardInterrupt


@pytest.mark.parametrize("call", range(1, 4))
def test_rewind_killed_in_the_middle_of_a_write_loses_and_doubles_nothing(run, monkeypatch, call):
    for step in range(1, 6):
        run.log(step, {"loss": float(step)})
    original, opened = Path.open, 0

    def half(path, mode="r", **options):
        nonlocal opened
        opened += mode in ("wb", "ab")
        return (
            HalfWritten(path, mode)
            if opened == call and mode in ("wb", "ab")
            else original(path, mode, **options)
        )

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", half)
        with contextlib.suppress(KeyboardInterrupt):
            run.rewind(2)
    run.rewind(2)
    assert lines(run.metrics_path) == [1, 2]
    assert lines(run.path / "metrics.discarded.jsonl") == [3, 4, 5]


@pytest.mark.parametrize("call", range(1, 9))
def test_rewind_killed_at_any_replacement_loses_and_doubles_nothing(run, monkeypatch, call):
    """Fail at the n-th file operation of a rewind, then rewind again: the outcome is that of one rewind."""
    for step in range(1, 6):
        run.log(step, {"loss": float(step)})
    counter = 0

    def dying(original):
        def wrapped(*args, **kwargs):
            nonlocal counter
            counter += 1
            if counter == call:
                raise KeyboardInterrupt  # as sudden as a kill for the code that follows
            return original(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", dying(os.fsync))
        patched.setattr(Path, "replace", dying(Path.replace))
        with contextlib.suppress(KeyboardInterrupt):
            run.rewind(2)
    assert sorted(set(lines(run.metrics_path) + lines(run.path / "metrics.discarded.jsonl"))) == [
        1,
        2,
        3,
        4,
        5,
    ]
    run.rewind(2)
    assert lines(run.metrics_path) == [1, 2]
    assert lines(run.path / "metrics.discarded.jsonl") == [3, 4, 5]


def test_latest_names_a_checkpoint(run):
    assert run.latest() is None
    run.set_latest(100)
    assert run.latest() == run.path / "checkpoints" / "step-000100"


@pytest.mark.parametrize(("end", "state"), [("finish", "finished"), ("stop", "stopped"), ("fail", "failed")])
def test_the_end_of_a_run_is_told(run, end, state):
    getattr(run, end)("because")
    assert (run.status()["state"], run.status()["reason"]) == (state, "because")


def test_a_run_whose_process_died_reads_as_killed_and_a_live_one_is_protected(tmp_path):
    code = (
        "import sys, time; from rung.run import Run; run = Run.create(sys.argv[1], {});"
        "run.log(1, {'loss': 1.0}); print('ready', flush=True); time.sleep(60)"
    )
    path = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert Run.open(path).status()["state"] == "running"
        with pytest.raises(UserError, match=f"process {process.pid}"):
            Run.resume(path)
        process.send_signal(signal.SIGKILL)
    assert Run.open(path).status()["state"] == "killed"
    assert [row["step"] for row in Run.resume(path).metrics()] == [1]


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    write_atomically(tmp_path / "f", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_atomically(tmp_path / "f", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "old")]


def test_every_metric_has_a_meaning_and_a_range_that_can_be_met():
    for name, metric in METRICS.items():
        assert metric.meaning and metric.better in ("", "lower", "higher"), name
        if metric.low is not None and metric.high is not None:
            assert metric.low < metric.high, name


def test_out_of_range_says_which_side():
    assert out_of_range("supervised_share", 0.0) == "below 0.01"
    assert out_of_range("grad_norm", 101) == "above 100"
    assert out_of_range("grad_norm", 100) == ""
    assert out_of_range("loss", math.nan) == "not a number"
    assert out_of_range("loss", 1.0) == ""
    assert out_of_range("step_seconds", 1e9) == ""
