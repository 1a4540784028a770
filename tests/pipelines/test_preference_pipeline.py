"""Preference commands end to end on a tiny model: step 0, resume after a kill, the cache, displacement, refusals."""

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

KILLER = """
import os, signal, sys
import rung.train as module
original, calls = module._finish_gradients, [0]
def counted(*args, **kwargs):
    calls[0] += 1
    if calls[0] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
module._finish_gradients = counted
from rung.cli import main
main(sys.argv[1:])
"""


def write(file: Path, rows) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    pairs = [
        {"prompt": "say " + "ab" * (i % 7 + 1), "chosen": "xy" * (i % 5 + 1) + str(i), "rejected": "zq" * (i % 3 + 1)}
        for i in range(24)
    ]  # fmt: skip
    thumbs = [
        {"prompt": r["prompt"], "completion": r["chosen"], "label": i % 3 == 0} for i, r in enumerate(pairs)
    ]
    text = "well then the answer is {} yes"
    near = [
        {"prompt": row["prompt"], "chosen": text.format(i % 9), "rejected": text.format((i + 1) % 9)}
        for i, row in enumerate(pairs)
    ]
    made = {"pairs": pairs, "thumbs": thumbs, "near": near}
    return {name: write(folder / f"{name}.jsonl", rows) for name, rows in made.items()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    return tmp_path / "cache" / "references"


def words(command, folder, data, out, *more) -> list[str]:
    fixed = ["--model", folder, "--data", data, "--out", out, "--max-length", "200", "--step-pairs", "6"]
    return [str(word) for word in [command, *fixed, "--micro-tokens", "250", *more]]


def metrics(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not METRICS[name].machine} for row in rows]


def outcome(run: Path):
    last = run / "checkpoints" / (run / "LATEST").read_text().strip()
    return metrics(run), {
        str(p.relative_to(last)): p.read_bytes() for p in sorted(last.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize(
    "command", ["dpo", "ipo", "dpop", "rpo", "apo", "hinge", "slic", "simpo", "orpo", "kto"]
)
def test_every_command_starts_exactly_at_the_start_and_learns(command, files, tiny_folder, tmp_path):
    data = files["thumbs" if command == "kto" else "pairs"]
    rate = [
        "--optimizer.learning-rate",
        "1e-3",
        "--steps",
        "12",
        "--precision",
        "fp32",
        "--eval-share",
        "0.2",
    ]
    assert status(words(command, tiny_folder, data, tmp_path / "run", *rate)) == 0
    first, *_, last = metrics(tmp_path / "run")
    assert (first["chosen_change"], first["rejected_change"]) == (0, 0)
    assert last["loss"] < first["loss"]
    if command == "kto":
        assert first["kto_baseline"] == 0 and first["loss"] == 0.5
    else:
        assert (first["margin"], first["pair_accuracy"], first["both_fall"]) == (0, 0.5, 0)
        assert last["margin"] > 0 and "eval_margin" in last
    assert "chosen answers" in json.loads((tmp_path / "run/status.json").read_text())["reason"]


@pytest.mark.parametrize("more", [
    ["--precision", "bf16"],
    ["--precision", "fp32", "--lora.rank", "4", "--lora.dropout", "0.5"],
    ["--precision", "bf16", "--recompute"],
], ids=["bf16", "lora with dropout", "recomputed"])  # fmt: skip
def test_the_first_step_sees_no_difference_whatever_the_precision(more, files, tiny_folder, tmp_path):
    assert status(words("dpo", tiny_folder, files["pairs"], tmp_path / "run", "--steps", "1", *more)) == 0
    [only] = metrics(tmp_path / "run")
    assert (only["margin"], only["chosen_change"], only["rejected_change"]) == (0, 0, 0)
    assert only["loss"] == pytest.approx(0.6931472, abs=1e-6)


def test_adapters_on_a_merged_adapter_take_that_as_their_start(files, tiny_folder, rows_file, tmp_path):
    sft = [
        "sft",
        "--model",
        tiny_folder,
        "--data",
        rows_file,
        "--out",
        tmp_path / "sft",
        "--max-length",
        "200",
    ]
    sft += ["--steps", "2", "--precision", "fp32", "--optimizer.learning-rate", "1e-2"]
    assert status([str(w) for w in [*sft, "--lora.rank", "4"]]) == 0
    assert status(["merge-adapter", str(tmp_path / "sft"), "--out", str(tmp_path / "merged")]) == 0
    lora = ["--lora.rank", "4", "--precision", "fp32", "--steps", "2", "--optimizer.learning-rate", "1e-2"]
    assert (
        status(
            words(
                "dpo", tmp_path / "merged", files["pairs"], tmp_path / "run", *lora, "--optimizer.warmup", "0"
            )
        )
        == 0
    )
    first, last = metrics(tmp_path / "run")
    assert first["margin"] == 0 != last["margin"]


def resumable() -> list[str]:
    more = ["--steps", "6", "--save-every", "2", "--eval-share", "0.2", "--keep", "0"]
    return [*more, "--optimizer.learning-rate", "1e-3"]


def test_kill_and_resume_is_the_unbroken_run(files, tiny_folder, tmp_path, cache):
    more = ["--precision", "fp32", "--lora.rank", "4", "--lora.dropout", "0.2", *resumable()]
    assert status(words("kto", tiny_folder, files["thumbs"], tmp_path / "whole", *more)) == 0
    broken = words("kto", tiny_folder, files["thumbs"], tmp_path / "broken", *more)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLER, *broken], env=env, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    shutil.rmtree(cache)  # the start is found again from the model, not from the checkpoint
    assert status(["kto", "--resume", str(tmp_path / "broken")]) == 0
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


@pytest.fixture
def interrupt(monkeypatch):
    """Ctrl-C in the second step of the test."""
    import rung.train

    original, calls = rung.train._finish_gradients, [0]

    def interrupting(*args, **kwargs):
        calls[0] += 1
        if calls[0] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(rung.train, "_finish_gradients", interrupting)


def test_interrupt_and_resume_is_the_unbroken_run(files, tiny_folder, tmp_path, cache, interrupt):
    more = ["--precision", "bf16", *resumable()]
    assert status(words("dpo", tiny_folder, files["pairs"], tmp_path / "broken", *more)) == 130
    shutil.rmtree(cache)
    assert status(["dpo", "--resume", str(tmp_path / "broken")]) == 0
    assert status(words("dpo", tiny_folder, files["pairs"], tmp_path / "whole", *more)) == 0
    broken, whole = outcome(tmp_path / "broken"), outcome(tmp_path / "whole")
    assert broken == whole


def test_the_start_is_scored_without_dropout():
    from rung.pipelines.preference import evaluating

    model = torch.nn.Dropout(0.5)
    assert torch.equal(evaluating(model, model)(torch.ones(99)), torch.ones(99))


def test_methods_share_one_cache_of_the_start(files, tiny_folder, tmp_path, cache, capsys):
    for number, command in enumerate(["dpo", "ipo", "simpo"]):
        assert status(words(command, tiny_folder, files["pairs"], tmp_path / f"run{number}")) == 0
        assert ("found in the cache" in capsys.readouterr().err) == (number > 0)
    assert len(list(cache.iterdir())) == 1
    assert status(words("simpo", tiny_folder, files["pairs"], tmp_path / "bare", "--no-track-start")) == 0
    assert "margin" not in metrics(tmp_path / "bare")[0]


def test_another_start_is_scored_anew(files, tiny_folder, tmp_path, cache):
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tiny_folder, tmp_path / "model")
    scaled = {name: 1.1 * tensor for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(scaled, model / "model.safetensors", {"format": "pt"})
    for number, folder in enumerate((tiny_folder, model), 1):
        assert status(words("dpo", folder, files["pairs"], tmp_path / f"run{number}", "--steps", "1")) == 0
        assert metrics(tmp_path / f"run{number}")[0]["chosen_change"] == 0
        assert len(list(cache.iterdir())) == number


def test_the_size_of_micro_batches_changes_no_metric(files, tiny_folder, tmp_path):
    runs = []
    for size in ("60", "1000"):
        more = [
            "--micro-tokens",
            size,
            "--precision",
            "fp32",
            "--optimizer.learning-rate",
            "1e-3",
            "--steps",
            "4",
        ]
        assert status(words("dpo", tiny_folder, files["pairs"], tmp_path / size, *more)) == 0
        runs.append(metrics(tmp_path / size))
    for a, b in zip(*runs, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


@pytest.fixture(scope="module")
def taught(tiny_folder, files, tmp_path_factory) -> Path:
    """The tiny model after it has learned to write answers like those of the near-identical pairs."""
    out = tmp_path_factory.mktemp("taught") / "sft"
    sft = ["sft", "--model", tiny_folder, "--data", files["near"], "--out", out, "--max-length", "200"]
    sft += [
        "--precision",
        "fp32",
        "--steps",
        "40",
        "--step-documents",
        "12",
        "--optimizer.learning-rate",
        "3e-3",
    ]
    assert status([str(word) for word in sft]) == 0
    return out


NEAR = ["--precision", "fp32", "--steps", "12", "--step-pairs", "12", "--optimizer.learning-rate", "1e-3"]


def reason(run: Path) -> str:
    return json.loads((run / "status.json").read_text())["reason"]


@pytest.mark.parametrize("command, displaced", [("dpo", True), ("dpop", False), ("rpo", False)])
def test_near_identical_pairs_displace_likelihood_under_dpo_alone(
    command, displaced, taught, files, tmp_path
):
    assert (
        status(words(command, taught, files["near"], tmp_path / "run", *NEAR, "--optimizer.clip", "0")) == 0
    )
    last = metrics(tmp_path / "run")[-1]
    assert (last["chosen_change"] < -0.02) == displaced
    assert (
        reason(tmp_path / "run").startswith("did every step asked for; likelihood displacement") == displaced
    )


def test_the_ches_filter_takes_the_pairs_that_displace(taught, files, tmp_path, capsys):
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(files["near"].read_text() + files["pairs"].read_text())
    kept = tmp_path / "kept.jsonl"
    ches = ["data", "ches", mixed, "--model", taught, "--drop", "0.5", "--out", kept, "--max-length", "200"]
    assert status([str(word) for word in ches]) == 0
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    near = sum("well then" in row["chosen"] for row in rows)
    assert len(rows) == 24 and near == 0
    assert rows[0]["ches"]["normalised"] < 0
    assert status([str(word) for word in ches]) == 2  # never written over
    assert status(words("dpo", taught, kept, tmp_path / "run", *NEAR)) == 0
    assert reason(tmp_path / "run").startswith("did every step asked for; no likelihood displacement")


GOOD = {"prompt": "a b", "chosen": "c", "rejected": "d"}
THUMB = {"prompt": "a", "completion": "b", "label": True}
BAD = {
    "equal answers": ("dpo", [GOOD, GOOD | {"rejected": "c"}], ":2"),
    "empty answer": ("dpo", [GOOD | {"rejected": ""}], "rejected"),
    "no pair": ("dpo", [{"prompt": "a", "completion": "b"}], "chosen and rejected"),
    "prompts that differ": (
        "dpo",
        [{
            "chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "c"}],
            "rejected": [{"role": "user", "content": "y"}, {"role": "assistant", "content": "d"}],
        }],
        "different prompts",
    ),
    "a label that is no boolean": ("kto", [THUMB, THUMB | {"label": 1}], "label"),
    "one class only": ("kto", [THUMB, THUMB | {"prompt": "z"}], "All 2 labels are true"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_rows_that_cannot_be_used(case, tiny_folder, tmp_path, capsys):
    command, rows, named = BAD[case]
    file = write(tmp_path / "rows.jsonl", rows)
    assert status(words(command, tiny_folder, file, tmp_path / "run")) == 2
    error = capsys.readouterr().err
    assert named in error and "Traceback" not in error and not (tmp_path / "run").exists()


@pytest.mark.parametrize("more, named", [
    (["--method.beta", "0"], "--method.beta"),
    (["--method.betta", "1"], "method.beta"),
    (["--eval-share", "2"], "--eval-share"),
    (["--step-pairs", "0"], "--step-pairs"),
    (["--max-length", "999"], "256"),
])  # fmt: skip
def test_settings_that_cannot_work(more, named, files, tiny_folder, tmp_path, capsys):
    assert status(words("dpo", tiny_folder, files["pairs"], tmp_path / "run", *more)) == 2
    assert named in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_run_is_resumed_by_its_own_command_with_its_own_start(
    files, tiny_folder, tmp_path, capsys, interrupt
):
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    out = tmp_path / "run"
    assert status(words("hinge", model, files["pairs"], out, "--save-every", "1")) == 130
    assert "rung hinge --resume" in capsys.readouterr().err
    assert status(["ipo", "--resume", str(out)]) == 2
    assert "rung hinge" in capsys.readouterr().err
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    save_file(
        {name: tensor * 1.01 for name, tensor in tensors.items()},
        model / "model.safetensors",
        {"format": "pt"},
    )
    assert status(["hinge", "--resume", str(out)]) == 2
    assert "other weights" in capsys.readouterr().err
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    assert status(["hinge", "--resume", str(out)]) == 0


def test_no_data_and_help(capsys):
    assert status(["dpo"]) == 2
    assert "--data FILE" in capsys.readouterr().err
    assert status(["kto"]) == 2
    assert "label" in capsys.readouterr().err


def test_a_biased_file_is_announced(files, tiny_folder, tmp_path, capsys):
    rows = [{"prompt": f"p{i}", "chosen": "long answer", "rejected": "no"} for i in range(30)]
    file = write(tmp_path / "long.jsonl", rows)
    assert status(words("dpo", tiny_folder, file, tmp_path / "run", "--steps", "1")) == 0
    assert "longer answer is chosen in 100.0%" in " ".join(capsys.readouterr().err.split())


def test_soft_labels_are_read_from_the_rows(files, tiny_folder, tmp_path, capsys):
    """A pair that is sure by one half teaches nothing, one that is sure by 1 what a plain pair teaches."""
    rows = [json.loads(line) for line in files["pairs"].read_text().splitlines()]
    more = [
        "--precision",
        "fp32",
        "--steps",
        "3",
        "--optimizer.learning-rate",
        "1e-3",
        "--optimizer.weight-decay",
        "0",
    ]
    runs = {}
    for name, chance in (("plain", None), ("sure", 1), ("even", 0.5)):
        soft = [] if chance is None else ["--method.soft", "True"]
        file = write(tmp_path / f"{name}.jsonl", [row | {"probability": chance} for row in rows])
        assert status(words("dpo", tiny_folder, file, tmp_path / name, *more, *soft)) == 0
        runs[name] = metrics(tmp_path / name)
    assert runs["sure"] == runs["plain"]
    assert runs["even"][0]["grad_norm"] == 0 and runs["even"][-1]["loss"] == pytest.approx(0.6931472)
    for wrong in (None, 0.4, "sure", True):
        file = write(
            tmp_path / "wrong.jsonl", [rows[0] | {"probability": 1}, rows[1] | {"probability": wrong}]
        )
        assert status(words("dpo", tiny_folder, file, tmp_path / "none", "--method.soft", "True")) == 2
        assert "wrong.jsonl:2" in capsys.readouterr().err and not (tmp_path / "none").exists()
    assert status(words("ipo", tiny_folder, file, tmp_path / "none", "--method.soft", "True")) == 2
    assert "method.soft" in capsys.readouterr().err
