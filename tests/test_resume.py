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
KILLER = Path(__file__).parent / "pipelines" / "rl_kills.py"


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


MORE = ["--optimizer.average", "0.9"]
KILLS = {
    "in a step": ["rung.train", "_finish_gradients", 4],
    "before the first save": ["rung.train", "_finish_gradients", 2],
    "mid-save, files half written": ["rung.publish", "sync_tree", 2],
    "saved, before LATEST moves": ["rung.run", "write_atomically", 4],
}
CASES = [(variant, kill) for variant in VARIANTS for kill in KILLS]
SLOW = [("lora", kill) for kill in KILLS if kill != "in a step"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def unbroken(tiny_folder, rows_file, tmp_path_factory) -> dict[str, tuple]:
    """Runs that were never killed."""
    folder, found = tmp_path_factory.mktemp("unbroken"), {}
    for name, more in VARIANTS.items():
        assert status(arguments(tiny_folder, rows_file, folder / name, *more, *MORE)) == 0
        found[name] = outcome(folder / name)
    return found


@pytest.fixture(scope="module")
def broken(chosen, tiny_folder, rows_file, tmp_path_factory) -> dict[tuple[str, str], tuple[Path, list]]:
    """All runs that are killed and resumed, from one process, since loading torch takes longest."""
    folder, jobs = tmp_path_factory.mktemp("broken"), []
    cases = [(one["variant"], one["kill"]) for one in chosen]
    for number, (variant, kill) in enumerate(cases):
        out = folder / f"run-{number}"
        words = arguments(tiny_folder, rows_file, out, *VARIANTS[variant], *MORE)
        jobs.append({"words": words, "out": str(out), "kill": KILLS[kill]})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(KILLER), str(folder / "jobs.json")]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    endings = json.loads(done.stdout.splitlines()[-1])
    return {case: (Path(job["out"]), end) for case, job, end in zip(cases, jobs, endings, strict=True)}


@pytest.mark.parametrize(
    ("variant", "kill"),
    [pytest.param(*case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES],
)
def test_kill_and_resume_is_the_unbroken_run(unbroken, broken, variant, kill):
    out, (died, resumed, said) = broken[variant, kill]
    assert died == -signal.SIGKILL, said
    if kill == "before the first save":
        assert resumed == 2
        return
    assert resumed == 0 and "resumed after step" in said, said
    expected, found = unbroken[variant], outcome(out)
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
