"""`rung distill` end to end on tiny models: who may teach, what is refused, what a run holds."""

import json
import shutil

import pytest
import torch
from distill_case import permuted, remade, told
from rl_case import steps, weights

import rung.train
from rung.cli import status


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    torch.set_num_threads(1)
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def teacher(tiny_folder, tmp_path_factory):
    return remade(tiny_folder, tmp_path_factory.mktemp("teachers") / "teacher", 0.1)


def words(model, rows_file, out, teacher, *more):
    return [
        "distill", "--model", str(model), "--data", str(rows_file), "--out", str(out), "--teacher", str(teacher),
        "--precision", "fp32", "--steps", "3", "--step-tokens", "300", "--max-length", "128", "--micro-tokens", "128",
        "--optimizer.learning-rate", "1e-3", *map(str, more),
    ]  # fmt: skip


def test_live_cached_and_padded_teachers_teach_alike(tiny_folder, rows_file, teacher, tmp_path):
    padded = remade(tiny_folder, tmp_path / "wide-teacher", 0.1, rows=272)
    kinds = {
        "live": (teacher, 0),
        "cached": (teacher, 260),
        "padded": (padded, 0),
        "padded-cached": (padded, 260),
    }
    found = {}
    for name, (who, k) in kinds.items():
        line = words(tiny_folder, rows_file, tmp_path / name, who, "--top-k", k, "--eval-share", 0.1)
        assert status(line) == 0
        found[name] = [
            (row["loss"], row["grad_norm"], row["text_nll"], row.get("eval_teacher_divergence", 0.0))
            for row in steps(tmp_path / name)
        ]
    for name in ("cached", "padded", "padded-cached"):
        for row, other in zip(found["live"], found[name], strict=True):
            assert row == pytest.approx(other, rel=1e-4)
    assert found["live"][0][0] > 1e-3 and found["live"][-1][3] > 1e-3
    config = json.loads((tmp_path / "padded" / "config.json").read_text())
    assert config["loss"] == "forward kl to the teacher per token"


def test_a_student_that_is_the_teacher_has_nothing_to_learn(tiny_folder, rows_file, tmp_path):
    """At every temperature, live and from its cache, for both are divided by the same."""
    ways = {
        "forward_kl": ("--temperature", 2),
        "reverse_kl": ("--temperature", 2, "--top-k", 260),
        "jensen_shannon": (),
    }
    for divergence, more in ways.items():
        out = tmp_path / divergence
        line = words(
            tiny_folder, rows_file, out, tiny_folder, "--divergence", divergence, "--steps", 1, *more
        )
        assert status(line) == 0
        assert abs(steps(out)[0]["loss"]) < 1e-6 and steps(out)[0]["grad_norm"] < 1e-5


def cut_short(line, monkeypatch):
    """The run of a command line, interrupted in its third step."""
    original, calls = rung.train._finish_gradients, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(rung.train, "_finish_gradients", failing)
        assert status(line) != 0


def test_a_stopped_run_resumes_to_the_same_bytes(tiny_folder, rows_file, teacher, tmp_path, monkeypatch):
    more = ("--top-k", 8, "--save-every", 1)
    assert status(words(tiny_folder, rows_file, tmp_path / "whole", teacher, *more)) == 0
    cut_short(words(tiny_folder, rows_file, tmp_path / "cut", teacher, *more), monkeypatch)
    assert status(["distill", "--resume", str(tmp_path / "cut")]) == 0
    assert steps(tmp_path / "whole") == steps(tmp_path / "cut") and weights(tmp_path / "whole") == weights(
        tmp_path / "cut"
    )


@pytest.mark.parametrize("more", [(), ("--top-k", 8)])
def test_a_resumed_run_is_held_to_its_teacher_before_it_is_asked(
    more, tiny_folder, rows_file, tmp_path, monkeypatch, capsys
):
    sage = remade(tiny_folder, tmp_path / "sage", 0.1)
    cut_short(words(tiny_folder, rows_file, tmp_path / "cut", sage, "--save-every", 1, *more), monkeypatch)
    shutil.rmtree(sage)
    remade(tiny_folder, sage, 0.2)
    monkeypatch.setattr(
        "rung.pipelines.distill.prepare", lambda *_: pytest.fail("the wrong teacher was asked")
    )
    assert status(["distill", "--resume", str(tmp_path / "cut")]) == 2
    assert "another teacher" in told(capsys)


REFUSED = {
    "no teacher": (["--teacher", ""], "No teacher was given"),
    "beta": (["--divergence", "jensen_shannon", "--beta", "0"], "forward_kl (what beta near 0 is like)"),
    "k": (["--top-k", "261"], "--top-k 261 of a vocabulary of 260"),
    "k below 0": (["--top-k", "-1"], "--top-k is -1. Write 0 for a live teacher"),
    "temperature": (["--temperature", "0"], "divides logits"),
    "process": (["--teacher-process"], "needs --top-k"),
    "server, live": (["--teacher", "http://127.0.0.1:9/v1"], "names at most 20"),
    "server, warm": (["--teacher", "http://127.0.0.1:9/v1", "--top-k", "5", "--temperature", "2"], "at temperature 1"),
    "weight": (["--method.data-weight", "1"], "rung sft"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_before_there_is_a_run(
    tiny_folder, rows_file, teacher, tmp_path, capsys, name
):
    flags, said = REFUSED[name]
    assert status(words(tiny_folder, rows_file, tmp_path / "run", teacher, *flags)) == 2
    assert said in told(capsys) and not (tmp_path / "run").exists()


def test_a_teacher_with_a_permuted_vocabulary_is_refused(tiny_folder, rows_file, tmp_path, capsys):
    other = permuted(tiny_folder, tmp_path / "permuted")
    assert status(words(tiny_folder, rows_file, tmp_path / "run", other)) == 2
    said = told(capsys)
    assert "same strings in another order, 2 of 260" in said and "rung rft --model TEACHER" in said
    assert not (tmp_path / "run").exists()
