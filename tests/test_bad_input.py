"""Every mistake a user can make with `rung sft`: one message that names the thing and the remedy, exit code 2,
and no run folder."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rung.cli import status

SHORT = ("--max-length", 200)
GOOD = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}


def rows(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.fixture
def model(tiny_folder, tmp_path):
    """A copy of the tiny model to break."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def refused(capsys, tmp_path, *words):
    out = tmp_path / "run"
    assert status(["sft", "--out", str(out), *map(str, words)]) == 2
    assert not out.exists()
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error[error.index("rung: error:") :]


BAD_ROWS = {
    "broken JSON": ([GOOD, '{"messages": ['], ":2"),
    "a row that is no object": ([GOOD, "[1, 2]"], ":2"),
    "wrong type": ([GOOD, {"messages": 7}], ":2"),
    "content of the wrong type": ([{"messages": [{"role": "user", "content": 3}]}], ":1"),
    "no assistant turn": ([GOOD, {"messages": GOOD["messages"][:1]}], "assistant"),
    "unknown role": ([{"messages": [{"role": "wizard", "content": "x"}, GOOD["messages"][1]]}], "wizard"),
    "unknown columns": ([{"foo": "bar"}], "foo"),
    "empty completion": ([{"prompt": "a", "completion": ""}], ":1"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows(case, capsys, tmp_path, tiny_folder):
    lines, named = BAD_ROWS[case]
    file = rows(tmp_path / "rows.jsonl", *lines)
    error = refused(capsys, tmp_path, "--model", tiny_folder, "--data", file, "--max-length", 200)
    assert "rows.jsonl" in error and named in error


def test_missing_and_empty_files(capsys, tmp_path, tiny_folder):
    assert "nowhere.jsonl" in refused(
        capsys, tmp_path, "--model", tiny_folder, "--data", tmp_path / "nowhere.jsonl", *SHORT
    )
    empty = rows(tmp_path / "empty.jsonl")
    assert "empty.jsonl" in refused(capsys, tmp_path, "--model", tiny_folder, "--data", empty, *SHORT)
    assert "--data" in refused(capsys, tmp_path, "--model", tiny_folder)


def test_nothing_fits(capsys, tmp_path, tiny_folder, rows_file):
    error = refused(capsys, tmp_path, "--model", tiny_folder, "--data", rows_file, "--max-length", 8)
    assert "no row is left" in error and "40" in error


def test_context_longer_than_the_model(capsys, tmp_path, tiny_folder, rows_file):
    error = refused(capsys, tmp_path, "--model", tiny_folder, "--data", rows_file, "--max-length", 300)
    assert "300" in error and "256" in error


def test_a_document_longer_than_a_micro_batch(capsys, tmp_path, tiny_folder, rows_file):
    words = ["--model", tiny_folder, "--data", rows_file, "--max-length", 200, "--micro-tokens", 20]
    assert "micro_tokens=20" in refused(capsys, tmp_path, *words)


def test_template_that_cannot_be_masked(capsys, tmp_path, model, rows_file):
    upper = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    (model / "chat_template.jinja").write_text(upper)
    error = refused(capsys, tmp_path, "--model", model, "--data", rows_file, "--max-length", 200)
    assert "template" in error and "rows.jsonl" in error


def tensors_of(model):
    return load_file(model / "model.safetensors")


def test_missing_and_extra_tensors(capsys, tmp_path, model, rows_file):
    tensors = tensors_of(model)
    tensors["model.layers.0.mlp.surprise.weight"] = torch.zeros(3)
    del tensors["model.norm.weight"]
    save_file(tensors, model / "model.safetensors")
    error = refused(capsys, tmp_path, "--model", model, "--data", rows_file, "--max-length", 200)
    assert "model.norm.weight" in error and "surprise" in error


def test_truncated_safetensors(capsys, tmp_path, model, rows_file):
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    error = refused(capsys, tmp_path, "--model", model, "--data", rows_file, "--max-length", 200)
    assert "model.safetensors" in error


def test_vocabulary_larger_than_the_embedding(capsys, tmp_path, model, rows_file):
    config = json.loads((model / "config.json").read_text())
    tensors = tensors_of(model)
    name = "model.embed_tokens.weight"
    tensors[name] = tensors[name][:200].contiguous()
    save_file(tensors, model / "model.safetensors")
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 200}))
    error = refused(capsys, tmp_path, "--model", model, "--data", rows_file, "--max-length", 200)
    assert "259" in error and "200" in error


@pytest.mark.parametrize("words, named", [
    (["--optimizer.learning-rat", "1"], "learning_rate"),
    (["--modell", "x"], "model"),
    (["--lora.rank", "-3"], "-3"),
    (["--lora.rank", "eight"], "eight"),
    (["--precision", "bf61"], "bf16"),
    (["--device", "gpu"], "gpu"),
    (["--eval-share", "1.5"], "1.5"),
    (["--per-device-train-batch-size", "4"], "tokens"),
])  # fmt: skip
def test_settings(words, named, capsys, tmp_path, tiny_folder, rows_file):
    assert named in refused(
        capsys, tmp_path, "--model", tiny_folder, "--data", rows_file, "--max-length", 200, *words
    )


def test_yaml_with_a_misspelt_key(capsys, tmp_path, tiny_folder, rows_file):
    file = tmp_path / "run.yaml"
    file.write_text(f"model: {tiny_folder}\ndata: [{rows_file}]\noptimizer:\n  learning_rte: 1e-4\n")
    error = refused(capsys, tmp_path, "--config", file)
    assert "run.yaml:4" in error and "learning_rate" in error


def test_an_existing_run_is_never_written_over(capsys, tmp_path, tiny_folder, rows_file):
    out = tmp_path / "run"
    words = [
        "sft",
        "--model",
        str(tiny_folder),
        "--data",
        str(rows_file),
        "--out",
        str(out),
        "--max-length",
        "200",
        "--steps",
        "1",
    ]
    assert status(words) == 0
    before = sorted((p, p.stat().st_mtime_ns) for p in out.rglob("*"))
    assert status(words) == 2
    assert "not empty" in capsys.readouterr().err
    assert sorted((p, p.stat().st_mtime_ns) for p in out.rglob("*")) == before


def test_a_tracker_that_is_not_installed(capsys, tmp_path, tiny_folder, rows_file, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    words = ["--model", tiny_folder, "--data", rows_file, "--max-length", 200, "--trackers", "wandb"]
    assert "pip install" in refused(capsys, tmp_path, *words)
