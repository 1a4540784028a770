"""What may not change a run: how rollouts lie in micro-batches, how many are sampled at once, how many ranks."""

import os
import resource
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from rl_case import files, play, rounds, steps, words

from rung.advantages.recipes import RECIPES, Recipe


@pytest.fixture(autouse=True)
def quick():
    torch.set_num_threads(1)


def gradient(run) -> dict:
    """Adam's first moment after one step from nothing is a tenth of the gradient."""
    [path] = (run / "checkpoints").glob("*/trainer/optimizer.pt")
    state = torch.load(path, weights_only=True)
    found: dict[str, torch.Tensor] = {}

    def walk(value, name):
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 1:
            found[name] = value
        elif isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{name}/{key}")
        elif isinstance(value, (list, tuple)):
            for key, part in enumerate(value):
                walk(part, f"{name}/{key}")

    walk(state, "")
    return found


LAYOUTS = [
    {"micro_tokens": 40}, {"micro_tokens": 100_000}, {"share_prompts": False}, {"recompute": True},
    {"micro_tokens": 40, "share_prompts": False},
]  # fmt: skip


@pytest.mark.parametrize("method", ["grpo", "dapo", "gspo"])
def test_micro_batches_never_change_the_gradient(tiny_folder, tmp_path, method):
    base = {"rounds": 1, "method": method, "updates": 1, "test_tasks": 0, "prompts": 4, "kind": "unsure"}
    base |= {"parts__overlong_filter": "false"} if method == "dapo" else {}
    plain = play(tiny_folder, tmp_path / "plain", **base)
    expected, [told] = gradient(plain), steps(plain)
    assert expected
    for number, layout in enumerate(LAYOUTS):
        run = play(tiny_folder, tmp_path / str(number), **(base | layout))
        assert files(run, "rollouts") == files(plain, "rollouts")
        [row] = steps(run)
        assert row["grad_norm"] == pytest.approx(told["grad_norm"], rel=1e-5), layout
        assert row["loss"] == pytest.approx(told["loss"], abs=1e-6)
        assert row["trained_tokens"] == told["trained_tokens"]
        for name, value in gradient(run).items():
            assert torch.allclose(
                value, expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].abs().max())
            )


@pytest.mark.parametrize(
    "options",
    [
        {"method": "grpo"},
        {"method": "dapo", "parts__dynamic_sampling": "false", "parts__overlong_filter": "false"},
        {"method": "dr_grpo"},
        {"method": "grpo", "updates": 2, "epochs": 2},
    ],
)
def test_answers_without_credit_are_not_computed_and_change_no_gradient(
    tiny_folder, tmp_path, monkeypatch, options
):
    base = {"rounds": 1, "updates": 1, "test_tasks": 0, "prompts": 5, "kind": "sometimes"} | options
    short = play(tiny_folder, tmp_path / "short", **base)
    monkeypatch.setattr(Recipe, "credit_alone", property(lambda recipe: False))
    whole = play(tiny_folder, tmp_path / "whole", **base)
    assert files(short, "rollouts") == files(whole, "rollouts")
    expected = gradient(whole)
    for name, value in gradient(short).items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].abs().max()))
    for brief, full in zip(steps(short), steps(whole), strict=True):
        assert brief["loss"] == pytest.approx(full["loss"], abs=1e-6)
        assert brief["grad_norm"] == pytest.approx(full["grad_norm"], rel=1e-4)
        assert brief["trained_tokens"] < full["trained_tokens"]


def test_a_round_without_any_credit_moves_nothing(tiny_folder, tmp_path):
    run = play(tiny_folder, tmp_path / "run", kind="equal", rounds=1, method="grpo", test_tasks=0)
    [row] = steps(run)
    assert row["grad_norm"] == 0 and row["loss"] == 0 and row["dead_groups"] == 1
    [records] = rounds(run)
    assert row["trained_tokens"] == min(len(record.rollout) for record in records)


@pytest.mark.parametrize(
    ("options", "alone"),
    [
        ({}, True),
        ({"loss_options": {"beta": 0.1}}, False),
        ({"loss_options": {"beta": 0.0, "entropy_bonus": 0.01}}, False),
        ({"loss": "ppo"}, False),
        ({"loss": "reason_maxxer"}, False),
    ],
)
def test_what_pulls_on_answers_without_credit(options, alone):
    assert replace(RECIPES["grpo"], **options).credit_alone is alone


def test_how_many_are_sampled_at_once_changes_no_bit(tiny_folder, tmp_path):
    """Two rounds of an invariant run: tokens, numbers, gradients, all of it."""
    runs = [play(tiny_folder, tmp_path / str(s), slots=s, batch_invariant=True, rounds=2) for s in (1, 5, 64)]
    for run in runs[1:]:
        assert files(run, "rollouts") == files(runs[0], "rollouts")
        assert steps(run) == steps(runs[0])


def test_two_ranks_are_one(tiny_folder, tmp_path):
    options = {
        "rounds": 2,
        "updates": 2,
        "batch_invariant": True,
        "eval_every": 2,
        "prompts": 5,
        "loss__beta": 0.1,
    }
    one = play(tiny_folder, tmp_path / "one", **options)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "rung", *words(tiny_folder, tmp_path / "two", **options)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alone, both = rounds(one), rounds(tmp_path / "two")
    for first, second in zip(alone, both, strict=True):
        for a, b in zip(first, second, strict=True):
            assert (a.rollout.task, a.rollout.group, a.verdict) == (
                b.rollout.task,
                b.rollout.group,
                b.verdict,
            )
            assert a.rollout.token_ids.tolist() == b.rollout.token_ids.tolist()
            assert a.rollout.sampler_logprob == pytest.approx(b.rollout.sampler_logprob, abs=1e-4)
    names = ("loss", "grad_norm", "reward", "trained_tokens", "num_tokens", "heldout_score", "reference_kl")
    for a, b in zip(steps(one), steps(tmp_path / "two"), strict=True):
        for name in names:
            assert a.get(name, 0) == pytest.approx(b.get(name, 0), rel=1e-4, abs=1e-6), name


def test_stale_sampling_on_several_ranks_is_refused(tiny_folder, tmp_path, monkeypatch, capsys):
    from rung import dist

    monkeypatch.setattr(dist, "start", lambda: None)
    monkeypatch.setattr(dist, "world", lambda: 2)
    play(tiny_folder, tmp_path / "run", code=2, staleness=1)
    assert "--staleness needs a single process" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_help_is_quick_and_loads_no_torch():
    code = (
        "import sys; from rung.cli import status; status(['rl', '--help']); assert 'torch' not in sys.modules"
    )
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0 and "--staleness" in done.stdout, done.stderr
    assert min(times) < 0.5  # of processor time, whoever else is busy
