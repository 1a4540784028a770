"""Two ranks are one: the same curve and weights as alone, through the command that users run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rung.cli import status


def test_two_ranks_give_the_curve_of_one(tiny_folder, rows_file, tmp_path):
    torch.set_num_threads(1)
    words = [
        "sft",
        "--model",
        str(tiny_folder),
        "--data",
        str(rows_file),
        "--max-length",
        "200",
        "--steps",
        "4",
    ]
    words += ["--step-documents", "7", "--micro-tokens", "200", "--precision", "fp32"]
    words += ["--optimizer.learning-rate", "3e-3", "--optimizer.schedule", "constant"]
    assert status([*words, "--out", str(tmp_path / "one")]) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "rung", *words, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    curves, weights = {}, {}
    for name in ("one", "two"):
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        curves[name] = [
            (row["loss"], row["grad_norm"], row["num_tokens"], row["trained_tokens"]) for row in rows
        ]
        weights[name] = load_file(tmp_path / name / "checkpoints" / "step-000004" / "model.safetensors")
    assert len(curves["two"]) == 4
    for one, two in zip(curves["one"], curves["two"], strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    for name, weight in weights["one"].items():
        assert torch.allclose(weights["two"][name], weight, rtol=1e-3, atol=1e-5), name


CURVES = {
    "dpo": ["loss", "grad_norm", "margin", "chosen_change", "pair_accuracy", "num_tokens"],
    "online-dpo": ["loss", "grad_norm", "margin", "pairs", "ties", "reward", "num_tokens"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["dpo", "online-dpo"])
def test_two_ranks_learn_preferences_as_one(command, tiny_folder, rows_file, tmp_path):
    """Offline and online; the reference, the pairs and every metric are those of one rank."""
    torch.set_num_threads(1)
    words = [command, "--model", str(tiny_folder), "--precision", "fp32", "--optimizer.learning-rate", "1e-3"]
    if command == "dpo":
        pairs = [json.loads(line)["messages"] for line in rows_file.read_text().splitlines()]
        text = [{"prompt": q["content"], "chosen": a["content"], "rejected": "z" * (i % 4 + 1)}
                for i, (q, a) in enumerate(pairs)]  # fmt: skip
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in text))
        words += ["--data", str(tmp_path / "pairs.jsonl"), "--max-length", "200", "--steps", "3"]
        words += ["--step-pairs", "7", "--micro-tokens", "200"]
    else:
        env = Path(__file__).with_name("pipelines") / "tiny_env.py"
        words += ["--env", f"{env}:make?kind=even", "--rounds", "2", "--prompts", "3", "--max-tokens", "8"]
        words += ["--test-tasks", "2", "--micro-tokens", "60", "--slots", "8"]
    cache = {"RUNG_CACHE": str(tmp_path / "cache")}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | cache
    found = {}
    for name, start in (("one", [sys.executable]), ("two", launcher)):
        whole = [*start, "-m", "rung", *words, "--out", str(tmp_path / name)]
        done = subprocess.run(whole, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        found[name] = [[row[key] for key in CURVES[command]] for row in rows]
    for one, two in zip(found["one"], found["two"], strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)
