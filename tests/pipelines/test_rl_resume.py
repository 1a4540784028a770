"""kill -9 anywhere in `rung rl`, resume: weights, metrics and rollouts are those of the run never killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rl_case import ENV, files, play, steps, told, weights, words
from safetensors.torch import load_file, save_file

from rung.cli import status
from rung.run import Run

VARIANTS = {
    # two updates a round: old log-probs; rloo: a reference; evaluations between rounds grow the cache
    "fp32": {"method": "rloo", "updates": 2, "eval_every": 3, "rounds": 3, "save_every": 1},
    "bf16": {"precision": "bf16", "rounds": 4, "save_every": 2, "kind": "sometimes", "method": "dapo", "updates": 1},
    "lora": {"lora__rank": 2, "lora__dropout": 0.1, "rounds": 4, "save_every": 2, "loss__beta": 0.1, "eval_every": 2},
}  # fmt: skip
UPDATE = ["rung.train", "_finish_gradients"]
KILLS = {  # what is entered, and for which time it kills, of each variant
    "mid-rollout": (["rung.rollouts.engine", "Engine.step"], {"fp32": 45, "bf16": 100, "lora": 45}),
    "mid-update": (UPDATE, {"fp32": 3, "bf16": 4, "lora": 4}),
    "in the second update of a round": (UPDATE, {"fp32": 4}),
    "mid-save, files half written": (["rung.publish", "sync_tree"], {"fp32": 3, "bf16": 2, "lora": 2}),
    "rollouts written, not renamed": (["rung.rollouts.store", "write_atomically"], {"fp32": 2, "bf16": 3}),
    "between rounds": (["rung.sources.collector", "Collector.__call__"], {"fp32": 3, "bf16": 3}),
    "before the step is logged": (["rung.run", "Run.log"], {"fp32": 4, "lora": 3}),
}
CASES = [(kill, variant) for kill, (_, calls) in KILLS.items() for variant in calls]
SLOW = [  # every kill stays with one variant, every variant with two kills
    ("mid-rollout", "bf16"), ("mid-rollout", "lora"), ("mid-update", "fp32"), ("mid-update", "lora"),
    ("mid-save, files half written", "fp32"), ("mid-save, files half written", "bf16"),
    ("rollouts written, not renamed", "fp32"), ("between rounds", "bf16"), ("before the step is logged", "fp32"),
]  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(tiny_folder, tmp_path_factory) -> dict[str, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("unbroken")
    return {name: play(tiny_folder, folder / name, **options) for name, options in VARIANTS.items()}


@pytest.fixture(scope="module")
def broken(chosen, tiny_folder, tmp_path_factory) -> dict[tuple[str, str], tuple[Path, list]]:
    """All runs that are killed and resumed, from one process, since loading torch takes longest."""
    folder = tmp_path_factory.mktemp("broken")
    cases, jobs = [(one["kill"], one["variant"]) for one in chosen], []
    for number, (kill, variant) in enumerate(cases):
        what, calls = KILLS[kill]
        out = str(folder / f"run-{number}")
        line = words(tiny_folder, out, **VARIANTS[variant])
        jobs.append({"words": line, "out": out, "kill": [*what, calls[variant]]})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(ENV.with_name("rl_kills.py")), str(folder / "jobs.json")]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    endings = json.loads(done.stdout.splitlines()[-1])
    return {case: (Path(job["out"]), end) for case, job, end in zip(cases, jobs, endings, strict=True)}


@pytest.mark.parametrize(
    ("kill", "variant"),
    [pytest.param(*case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES],
)
def test_kill_and_resume_is_the_unbroken_run(unbroken, broken, kill, variant):
    run, (died, resumed, said) = broken[kill, variant]
    assert died == -signal.SIGKILL, said
    assert resumed == 0, said
    assert "resumed after step" in said
    expected = unbroken[variant]
    assert steps(run) == steps(expected)
    assert weights(run) == weights(expected)
    assert files(run, "rollouts") == files(expected, "rollouts")
    assert told(run)["state"] == "finished"
    assert not [path for path in run.rglob("*") if ".tmp" in path.name]


@pytest.mark.parametrize(
    ("variant", "said"),
    [("fp32", "and they are its reference. Put them back"), ("lora", "its weights are not the same")],
)
def test_a_run_goes_on_from_the_start_it_had_or_not_at_all(
    tiny_folder, unbroken, tmp_path, capsys, variant, said
):
    """The folder it started from has other weights by now: the reference, and what an adapter adapts, are gone."""
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    tensors = {name: tensor + 1 for name, tensor in load_file(other / "model.safetensors").items()}
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    run = shutil.copytree(unbroken[variant], tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["settings"]["model"] = str(other)
    (run / "config.json").write_text(json.dumps(config))
    (run / "LATEST").write_text(min(path.name for path in (run / "checkpoints").iterdir()) + "\n")
    Run(run).stop("as if killed")
    assert status(["rl", "--resume", str(run)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
