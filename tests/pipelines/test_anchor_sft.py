"""`rung sft --anchor...` end to end: held near the start, resumed bit for bit, held to its old rows."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rung.batch import Example
from rung.cli import status
from rung.models.folder import digest, read_tensors
from rung.models.hub import resolve
from rung.pipelines.anchor import chosen
from rung.run import Run


def run(out, tiny_folder, rows_file, *words) -> int:
    fixed = [
        "--data",
        rows_file,
        "--model",
        tiny_folder,
        "--precision",
        "fp32",
        "--step-documents",
        4,
        "--max-length",
        128,
    ]
    fixed += ["--optimizer.learning-rate", 0.01, "--optimizer.schedule", "constant"]
    return status([str(w) for w in ["sft", *fixed, "--out", out, *words]])


def distance(run_folder, tiny_folder) -> float:
    start, end = read_tensors(tiny_folder), read_tensors(resolve(str(run_folder)))
    return sum(float((end[name] - start[name]).square().sum()) for name in end) ** 0.5


def rows_of(run_folder):
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def old(tmp_path):
    file = tmp_path / "old.jsonl"
    file.write_text("".join(json.dumps({"text": "old text " + "cd" * n}) + "\n" for n in range(1, 9)))
    return file


@pytest.mark.slow
def test_firmer_means_nearer(tmp_path, tiny_folder, rows_file, old):
    words = ["--steps", 8]
    assert run(tmp_path / "free", tiny_folder, rows_file, *words) == 0
    assert run(tmp_path / "l2", tiny_folder, rows_file, *words, "--anchor.l2", 3) == 0
    ewc = ["--anchor.ewc", 300, "--anchor.data", old, "--anchor.documents", 5]
    assert run(tmp_path / "ewc", tiny_folder, rows_file, *words, *ewc) == 0
    free, l2, held = (distance(tmp_path / name, tiny_folder) for name in ("free", "l2", "ewc"))
    assert l2 < 0.8 * free and held < free
    logged = rows_of(tmp_path / "ewc")
    assert (
        logged[0]["anchor"] == 0
        and logged[-1]["anchor"] > 0
        and "anchor" not in rows_of(tmp_path / "free")[0]
    )
    assert "(w - start)^2" in json.loads((tmp_path / "ewc" / "config.json").read_text())["loss"]


def test_continued_bit_for_bit_and_held_to_the_same_rows(tmp_path, tiny_folder, rows_file, old, capsys):
    ewc = [
        "--anchor.ewc",
        300,
        "--anchor.data",
        old,
        "--anchor.documents",
        5,
        "--anchor.l2",
        0.5,
        "--steps",
        6,
    ]
    assert run(tmp_path / "whole", tiny_folder, rows_file, *ewc) == 0
    assert run(tmp_path / "cut", tiny_folder, rows_file, *ewc, "--save-every", 3) == 0
    (tmp_path / "cut" / "checkpoints" / "LATEST").unlink(missing_ok=True)
    (tmp_path / "cut" / "LATEST").write_text("step-000003\n")
    state = json.loads((tmp_path / "cut" / "status.json").read_text())
    (tmp_path / "cut" / "status.json").write_text(json.dumps(state | {"state": "stopped"}))
    rows = old.read_text()
    old.write_text(rows.replace("old", "new"))
    assert status(["sft", "--resume", str(tmp_path / "cut")]) == 2
    assert "was started on data with digest" in capsys.readouterr().err
    old.write_text(rows)
    assert status(["sft", "--resume", str(tmp_path / "cut")]) == 0
    found = [digest(read_tensors(resolve(str(tmp_path / name)))) for name in ("whole", "cut")]
    assert found[0] == found[1]


def test_it_is_not_continued_from_another_start(tmp_path, tiny_folder, rows_file, capsys):
    model, out = shutil.copytree(tiny_folder, tmp_path / "model"), tmp_path / "run"
    assert run(out, model, rows_file, "--anchor.l2", 1, "--steps", 2, "--save-every", 1) == 0
    (out / "LATEST").write_text("step-000001\n")
    Run(out).stop("as if killed")
    tensors = {name: tensor + 1 for name, tensor in read_tensors(model).items()}
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    assert status(["sft", "--resume", str(out)]) == 2
    assert "was started from other weights than" in " ".join(capsys.readouterr().err.split())


def test_old_documents_are_those_that_hold_something_to_predict():
    """The first token is never predicted; of the others so many as were asked for, in an epoch's order."""
    trained = [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 1]]
    examples = [Example(np.zeros(3, np.int32), np.array(row, bool), str(n)) for n, row in enumerate(trained)]
    old = SimpleNamespace(examples=examples, sizes=[5], weights=None)
    found = [[one.origin for one in chosen(old, count, seed=3)] for count in (2, 9)]
    assert sorted(found[1]) == ["1", "3", "4"] and found[0] == found[1][:2]


def test_replay_is_a_mixture_of_the_data(tmp_path, tiny_folder, rows_file, old):
    """One flag: FILE:WEIGHT. A quarter of the documents are old ones."""
    words = ["--data", f"{rows_file}:0.75", f"{old}:0.25", "--model", tiny_folder, "--max-length", 128]
    assert status([str(w) for w in ["sft", *words, "--steps", 1, "--out", tmp_path / "r"]]) == 0
    assert torch.isfinite(torch.tensor(rows_of(tmp_path / "r")[0]["loss"]))
