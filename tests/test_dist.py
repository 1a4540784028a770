"""Two ranks are one: the same curve and weights as alone, through the command that users run."""

import json
import os
import subprocess
import sys

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
