"""`rung online-dpo` on the tiny model: the start, the pairs on disk, renewal, kill and resume, ties, refusals."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rl_case import ENV, files, rounds, steps, told, weights, words

from rung.cli import status
from rung.rewards.score import Score

FIXED = {"group": 2, "test_tasks": 2, "micro_tokens": 400}
VARIANTS = {
    "plain": {"method": "dpo", "updates": 2, "save_every": 3},
    "renewed, bf16": {"renew_every": 1, "precision": "bf16", "rounds": 4, "save_every": 3, "updates": 2},
    "lora, renewed": {"renew_every": 2, "lora__rank": 2, "lora__dropout": 0.3, "rounds": 4, "save_every": 3},
    "skips": {"kind": "sometimes", "prompts": 1, "rounds": 4, "save_every": 2, "loss__beta": 0.5},
    "ipo of four": {"method": "ipo", "group": 4, "save_every": 1, "rounds": 2},
}  # fmt: skip
SLOW = ("skips", "ipo of four")  # to kill and resume


def line(folder, out, kind="even", **options) -> list[str]:
    return ["online-dpo", *words(folder, out, kind, **(FIXED | options))[1:]]


def play(folder, out, code=0, **options) -> Path:
    assert status(line(folder, out, **options)) == code
    return Path(out)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def unbroken(tiny_folder, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("online")
    return {name: play(tiny_folder, folder / name, **options) for name, options in VARIANTS.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_distance_at_the_start_is_exactly_0(unbroken, name):
    """In float32 and bf16, with adapters and dropout configured."""
    first = steps(unbroken[name])[0]
    assert (first["chosen_change"], first["rejected_change"], first["margin"]) == (0, 0, 0)
    assert first["loss"] == pytest.approx(25.0 if name == "ipo of four" else math.log(2))
    assert steps(unbroken[name])[1]["margin"] != 0


@pytest.mark.parametrize("name, every, updates", [("renewed, bf16", 1, 2), ("lora, renewed", 2, 1)])
def test_a_renewed_reference_is_the_policy_of_that_moment(unbroken, name, every, updates):
    at_zero = [i for i, row in enumerate(steps(unbroken[name])) if row["margin"] == 0]
    renewed = [i for i in range(4 * updates) if i % (every * updates) == 0]
    if "dropout" in str(
        VARIANTS[name]
    ):  # once adapters are not zero, dropout is heard; the reference has none
        assert at_zero == [0]
        change = [abs(row["margin"]) for row in steps(unbroken[name])]
        assert change[2] != change[3]
    else:
        assert at_zero == renewed


def test_what_was_learned_stands_on_disk(unbroken):
    """The best and the worst of each group are marked, ties are not."""
    for records in rounds(unbroken["ipo of four"]):
        for group in {record.rollout.group for record in records}:
            members = [record for record in records if record.rollout.group == group]
            values = [record.verdict.value for record in members]
            mark = [float(record.advantage[0]) for record in members]
            if max(values) > min(values):
                assert mark[values.index(max(values))] == 1 and mark[values.index(min(values))] == -1
                assert sorted(mark) == [-1, 0, 0, 1]
            else:
                assert mark == [0] * 4


def test_ties_are_counted_and_rounds_of_ties_skipped(unbroken):
    run = unbroken["skips"]
    rows, kept = steps(run), rounds(run)
    assert len(rows) == 4 and len(kept) > 4
    tied = [all(not record.advantage.any() for record in records) for records in kept]
    learned = [i for i, alike in enumerate(tied) if not alike]
    assert [row["round"] for row in rows] == learned
    assert [row["skipped_rounds"] for row in rows] == [
        b - a - 1 for a, b in zip([-1, *learned], learned, strict=False)
    ]
    assert all((row["pairs"], row["ties"], row["unjudged"]) == (1, 0, 0) for row in rows)


@pytest.fixture(scope="module")
def broken(chosen, tiny_folder, tmp_path_factory) -> dict[str, tuple[Path, list]]:
    """All killed in an update after a checkpoint and resumed, from one process."""
    folder, jobs = tmp_path_factory.mktemp("killed"), []
    names = [one["name"] for one in chosen]
    for number, options in enumerate(VARIANTS[name] for name in names):
        out = folder / f"run-{number}"
        kill = ["rung.train", "_finish_gradients", options["save_every"] + 1]
        jobs.append({"words": line(tiny_folder, out, **options), "out": str(out), "kill": kill})
    (folder / "jobs.json").write_text(json.dumps(jobs, default=str))
    command = [sys.executable, str(ENV.with_name("rl_kills.py")), str(folder / "jobs.json")]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    endings = json.loads(done.stdout.splitlines()[-1])
    return {name: (Path(job["out"]), end) for name, job, end in zip(names, jobs, endings, strict=True)}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in VARIANTS]
)
def test_killed_and_resumed_is_the_unbroken_run(unbroken, broken, name):
    run, (died, resumed, said) = broken[name]
    assert (died, resumed) == (-signal.SIGKILL, 0), said
    expected = unbroken[name]
    assert steps(run) == steps(expected)
    assert weights(run) == weights(expected)
    assert files(run, "rollouts") == files(expected, "rollouts")


def test_a_checkpoint_keeps_a_renewed_reference_and_opens(unbroken):
    from transformers import AutoModelForCausalLM

    last = sorted((unbroken["renewed, bf16"] / "checkpoints").iterdir())[-1]
    assert (last / "reference" / "weights.safetensors").is_file()
    AutoModelForCausalLM.from_pretrained(last)
    assert not any((unbroken["plain"] / "checkpoints").rglob("reference"))


def test_the_size_of_micro_batches_changes_no_metric(tiny_folder, unbroken, tmp_path):
    other = play(tiny_folder, tmp_path / "run", **(VARIANTS["plain"] | {"micro_tokens": 60}))
    for a, b in zip(steps(unbroken["plain"]), steps(other), strict=True):
        for name in ("loss", "grad_norm", "margin", "chosen_change"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name


def test_abstentions_make_no_pair(tiny_folder, tmp_path):
    run = play(tiny_folder, tmp_path / "run", kind="unsure", method="simpo", rounds=2, prompts=6)
    for row in steps(run):
        records = rounds(run)[int(row["round"])]
        assert row["pairs"] + row["ties"] + row["unjudged"] == 6 and row["unjudged"] > 0
        assert "margin" not in row  # simpo has no reference
        for record in records:
            assert isinstance(record.verdict, Score) or not record.advantage.any()
    assert json.loads((run / "config.json").read_text())["loss"].startswith(
        "simpo with its defaults, mean over the pairs"
    )


def test_nothing_but_ties_ends_in_a_sentence(tiny_folder, tmp_path, capsys):
    run = play(tiny_folder, tmp_path / "run", code=1, kind="equal", prompts=2, max_tokens=2)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "round 0 has no pair to learn from (2 ties and 0 prompts with fewer than two scores); it is skipped"
        in said
    )
    assert "20 rounds in a row had no pair to learn from" in told(run)["reason"]
    assert not (run / "checkpoints").exists()


REFUSED = {
    "group": ({"group": 1}, "--group 1 makes no pair"),
    "parts": ({"parts__whiten": "True"}, "--parts.whiten changes how a reward becomes credit"),
    "staleness": ({"staleness": 1}, "--staleness 0"),
    "option": ({"method": "ipo", "loss__label_smoothing": 0.1}, "--loss.label-smoothing is no option of --method ipo"),
    "renewal": ({"method": "simpo", "renew_every": 1}, "--method simpo has no reference"),
    "tie": ({"tie": -1}, "not below 0"),
    "beta": ({"loss__beta": 0}, "--loss.beta is 0"),
    "kto": ({"method": "kto"}, "kto"),
    "prompts": ({"prompts": 0}, "--prompts is 0"),
    "updates": ({"updates": 3, "epochs": 2}, "3 updates a round"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused(tiny_folder, tmp_path, capsys, name):
    options, said = REFUSED[name]
    play(tiny_folder, tmp_path / "run", code=2, **options)
    assert said in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "run").exists()


def test_no_environment(capsys):
    assert status(["online-dpo"]) == 2
    assert "--env" in capsys.readouterr().err
