"""kill -9 anywhere, resume: the same run, bit for bit. Also what a run refuses, and how it stops."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rung.cli import status
from rung.metrics import METRICS

STEPS = 6

# Runs `rung ARGV...` and kills itself, as kill -9 would, the n-th time the named function is entered.
KILLER = """
import os, signal, sys
import {module} as module
original, calls = getattr(module, "{function}"), [0]
def counted(*args, **kwargs):
    calls[0] += 1
    if calls[0] == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(module, "{function}", counted)
from rung.cli import main
main(sys.argv[1:])
"""


def arguments(folder, rows_file, out, *more):
    fixed = [
        "sft",
        "--model",
        str(folder),
        "--data",
        str(rows_file),
        "--out",
        str(out),
        "--steps",
        str(STEPS),
    ]
    layout = ["--step-documents", "7", "--micro-tokens", "300", "--max-length", "256", "--save-every", "2"]
    return [
        *fixed,
        *layout,
        "--neftune",
        "5",
        "--eval-share",
        "0.1",
        "--eval-every",
        "3",
        "--keep",
        "0",
        *more,
    ]


def outcome(run: Path) -> tuple[list[dict], dict[str, bytes]]:
    """Metrics that do not depend on the clock, and every byte of the last checkpoint but JSON's own times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in row.items() if not METRICS[k].machine} for row in rows]
    last = run / "checkpoints" / (run / "LATEST").read_text().strip()
    return metrics, {str(p.relative_to(last)): p.read_bytes() for p in sorted(last.rglob("*")) if p.is_file()}


VARIANTS = {
    "bf16": ["--precision", "bf16"],
    "lora": ["--precision", "fp32", "--lora.rank", "4", "--lora.dropout", "0.2"],
}


@pytest.fixture(scope="module", params=VARIANTS)
def unbroken(request, tiny_folder, rows_file, tmp_path_factory):
    """A run that was never killed, with the options it was made with."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("unbroken") / "run"
    more = [*VARIANTS[request.param], "--optimizer.average", "0.9"]
    assert status(arguments(tiny_folder, rows_file, out, *more)) == 0
    return outcome(out), more


KILLS = {
    "in a step": ("rung.train", "_finish_gradients", 4),
    "before the first save": ("rung.train", "_finish_gradients", 2),
    "mid-save, files half written": ("rung.publish", "sync_tree", 2),
    "saved, before LATEST moves": ("rung.run", "write_atomically", 4),
}


@pytest.mark.parametrize("kill", KILLS)
def test_kill_and_resume_is_the_unbroken_run(unbroken, tiny_folder, rows_file, tmp_path, kill):
    expected, more = unbroken
    out = tmp_path / "run"
    module, function, call = KILLS[kill]
    code = KILLER.format(module=module, function=function, call=call)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments(tiny_folder, rows_file, out, *more)]
    killed = subprocess.run(command, env=env, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    if kill == "before the first save":
        assert status(["sft", "--resume", str(out)]) == 2
        return
    assert len(outcome(out)[0]) < STEPS
    assert status(["sft", "--resume", str(out)]) == 0
    found = outcome(out)
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    different = [name for name in found[1] if found[1][name] != expected[1][name]]
    assert different == []
    assert not list((out / "checkpoints").glob("*.tmp-*"))


@pytest.fixture
def stopped(tiny_folder, rows_file, tmp_path, monkeypatch):
    """A run that Ctrl-C stopped after its third step."""
    import rung.train

    original, calls = rung.train._finish_gradients, [0]

    def interrupting(*args, **kwargs):
        calls[0] += 1
        if calls[0] == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(rung.train, "_finish_gradients", interrupting)
    rows = tmp_path / "rows.jsonl"
    shutil.copy(rows_file, rows)
    out = tmp_path / "run"
    assert status(arguments(tiny_folder, rows, out)) == 130
    monkeypatch.setattr(rung.train, "_finish_gradients", original)
    return out, rows


def test_ctrl_c_saves_says_how_to_go_on_and_exits_130(stopped, capsys):
    out, _ = stopped
    assert (out / "LATEST").read_text().strip() == "step-000003"
    assert json.loads((out / "status.json").read_text())["state"] == "stopped"
    assert status(["sft", "--resume", str(out)]) == 0
    assert len((out / "metrics.jsonl").read_text().splitlines()) == STEPS


def test_resume_with_changed_data_is_refused(stopped, capsys):
    out, rows = stopped
    before = (out / "metrics.jsonl").read_bytes()
    rows.write_text(rows.read_text().replace("xyxy", "yxyx", 1))
    assert status(["sft", "--resume", str(out)]) == 2
    assert "digest" in capsys.readouterr().err
    assert (out / "metrics.jsonl").read_bytes() == before


def test_resume_with_changed_settings_is_refused_by_name(stopped, capsys):
    out, _ = stopped
    assert status(["sft", "--resume", str(out), "--optimizer.learning-rate", "0.5"]) == 2
    error = capsys.readouterr().err
    assert "optimizer.learning_rate" in error and "0.5" in error


def test_resuming_a_finished_run_says_so(stopped, capsys):
    out, _ = stopped
    assert status(["sft", "--resume", str(out)]) == 0
    assert status(["sft", "--resume", str(out)]) == 2
    assert "finished" in capsys.readouterr().err


def test_a_full_disk_during_save_keeps_the_last_checkpoint(
    tiny_folder, rows_file, tmp_path, monkeypatch, capsys
):
    import errno

    import rung.checkpoint

    original, calls = rung.checkpoint.torch.save, [0]

    def full(*args, **kwargs):
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args, **kwargs)

    monkeypatch.setattr(rung.checkpoint.torch, "save", full)
    out = tmp_path / "run"
    assert status(arguments(tiny_folder, rows_file, out)) == 2
    assert "disk is full" in capsys.readouterr().err
    assert (out / "LATEST").read_text().strip() == "step-000002"
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-000002"]
    monkeypatch.setattr(rung.checkpoint.torch, "save", original)
    assert status(["sft", "--resume", str(out)]) == 0
