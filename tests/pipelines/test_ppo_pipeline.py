"""`rung ppo` on the tiny model: what a run leaves, killed and resumed, cut rounds, costs, dense rewards, bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rl_case import ENV, files, rounds, steps, weights, words

from rung.cli import status
from rung.models.scalar import load_scalar
from rung.pipelines.ppo import PpoPlayer
from rung.settings_ppo import Cost, Critic, Dense, Ppo

COST = f"{ENV.with_name('tiny_cost.py')}:odd"
FIXED = {"test_tasks": 2, "prompts": 6, "group": 1, "micro_tokens": 400}
VARIANTS = {
    "own": {"kl__target": 0.5, "kl__horizon": 20, "rounds": 2, "save_every": 3},
    "shared, bf16": {"critic__trunk": "shared", "precision": "bf16", "rounds": 2, "save_every": 3},
    "lora": {"lora__rank": 2, "lora__dropout": 0.2, "rounds": 2, "save_every": 3},
    "cost": {"cost__reward": COST, "rounds": 3, "save_every": 3, "updates": 2, "epochs": 1},
    "cut": {"kl__stop": 1e-4, "rounds": 2, "save_every": 1},
}  # fmt: skip
SLOW = ("lora", "cut")  # to kill and resume


def ppo_words(folder, out, **options) -> list[str]:
    return ["ppo", *words(folder, out, **(FIXED | options))[1:]]


def play(folder, out, code=0, **options) -> Path:
    assert status(ppo_words(folder, out, **options)) == code
    return Path(out)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def unbroken(tiny_folder, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ppo")
    return {name: play(tiny_folder, folder / name, **options) for name, options in VARIANTS.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_kl_at_the_start_is_exactly_0(unbroken, name):
    """In float32 and bf16, with adapters and with dropout configured."""
    run = unbroken[name]
    first = rounds(run)[0]
    for record in first:
        own = record.rollout.by_model
        assert (record.old_logprob[own] != 0).all()
        assert (record.old_logprob == record.reference_logprob).all()
    assert steps(run)[0]["round_kl"] == 0.0
    assert steps(run)[0]["update_kl"] == pytest.approx(
        0, abs=1e-2 if name in ("lora", "shared, bf16") else 1e-9
    )


@pytest.fixture(scope="module")
def broken(chosen, tiny_folder, tmp_path_factory) -> dict[str, tuple[Path, list]]:
    """All killed in the second update after a checkpoint and resumed, from one process."""
    folder, jobs = tmp_path_factory.mktemp("killed"), []
    names = [one["name"] for one in chosen]
    for number, options in enumerate(VARIANTS[name] for name in names):
        out = folder / f"run-{number}"
        kill = ["rung.train", "_finish_gradients", options["save_every"] + 2]
        jobs.append({"words": ppo_words(tiny_folder, out, **options), "out": str(out), "kill": kill})
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


def test_the_critic_is_a_folder_that_opens_and_has_learned(unbroken):
    last = sorted((unbroken["own"] / "checkpoints").iterdir())[-1]
    critic = load_scalar(last / "critic" / "value")
    assert critic.about.kind == "critic"
    assert critic.head.weight.abs().max() > 0
    record = rounds(unbroken["own"])[1][0]
    assert (record.old_value[record.rollout.by_model] != 0).all()
    assert (rounds(unbroken["own"])[0][0].old_value == 0).all()  # a head of zeros expects nothing


def test_transformers_opens_actor_and_critic(unbroken):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    last = sorted((unbroken["own"] / "checkpoints").iterdir())[-1]
    AutoModelForCausalLM.from_pretrained(last)
    critic = AutoModelForSequenceClassification.from_pretrained(last / "critic" / "value")
    assert critic.num_labels == 1


def test_credit_on_disk_is_gae_of_what_is_on_disk(unbroken):
    """The first answer of round 1, again by hand: gamma 1, lambda 0.95, at the coefficient that was logged."""
    rows = [row for row in steps(unbroken["own"]) if "reward_beta" in row]
    record, beta = rounds(unbroken["own"])[1][0], rows[1]["reward_beta"]
    reward = -beta * (record.old_logprob.astype(float) - record.reference_logprob)
    reward[-1] += record.verdict.value
    value, advantage = record.old_value.astype(float), 0.0
    for t in range(len(reward) - 1, -1, -1):
        later = value[t + 1] if t + 1 < len(reward) else 0.0
        advantage = reward[t] + later - value[t] + 0.95 * advantage
        assert record.return_value[t] == pytest.approx(advantage + value[t], rel=1e-5)


def test_the_kl_coefficient_follows_the_kl(unbroken):
    """Round 0 has a KL of 0, so six answers of a horizon of 20 lower 0.05 by 0.2 * 6 / 20."""
    betas = [row["reward_beta"] for row in steps(unbroken["own"]) if "reward_beta" in row]
    assert betas == pytest.approx([0.05, 0.05 * (1 - 0.2 * 6 / 20)])


def test_rounds_are_cut_short_and_the_steps_go_to_others(unbroken):
    """The first update of a round has not moved; each later one that finds more than 1e-4 ends its round."""
    rows = steps(unbroken["cut"])
    assert len(rows) == 8
    begun = [i for i, row in enumerate(rows) if "round" in row]
    assert [rows[i]["round"] for i in begun] == list(range(len(begun)))
    assert len(begun) > 2
    for i in begun[1:]:
        assert rows[i - 1]["update_kl"] > 1e-4 or i - begun[begun.index(i) - 1] == 4
    for i, row in enumerate(rows[:-1]):
        if row["update_kl"] > 1e-4:
            assert i + 1 in begun


def test_costs_have_a_critic_and_a_multiplier(unbroken):
    run = unbroken["cost"]
    multipliers = [row["cost_multiplier"] for row in steps(run) if "cost_multiplier" in row]
    expected, seen = [1.0], []
    for records in rounds(run)[:-1]:
        seen += [record.verdict.parts["cost"] for record in records]
        expected.append(min(np.exp(np.log(expected[-1]) + 0.1 * expected[-1] * np.mean(seen)), 5.0))
    assert multipliers == pytest.approx(expected)
    assert len(set(multipliers)) == 3
    record = rounds(run)[1][0]
    assert record.verdict.value == record.verdict.parts["reward"]
    assert (record.old_cost != record.old_value).any()
    last = sorted((run / "checkpoints").iterdir())[-1]
    assert {path.name for path in (last / "critic").iterdir()} == {"value", "cost"}


def test_micro_batches_and_shared_prompts_do_not_change_the_run(tiny_folder, unbroken, tmp_path):
    other = play(
        tiny_folder, tmp_path / "run", **(VARIANTS["own"] | {"micro_tokens": 60, "share_prompts": False})
    )
    for a, b in zip(steps(unbroken["own"]), steps(other), strict=True):
        for name in ("loss", "grad_norm", "value_loss", "explained_variance"):
            if name in a:
                assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name


def test_a_soft_constraint_has_a_fixed_price(tiny_folder, tmp_path):
    options = {
        "cost__reward": COST,
        "cost__constraint": "soft",
        "cost__multiplier": 2.0,
        "updates": 1,
        "epochs": 1,
    }
    run = play(tiny_folder, tmp_path / "run", rounds=2, **options)
    assert [row["cost_multiplier"] for row in steps(run)] == [2.0, 2.0]


def test_every_setting_of_the_credit_reaches_its_recipe():
    given = Ppo(
        critic=Critic(discount=0.9, trace=0.8), dense=Dense("x", 0.3, 0.2), missing_end_penalty=1.5,
        cost=Cost("rm:c", multiplier=2.0, kl_share=0.25),
    )  # fmt: skip
    recipe = PpoPlayer.recipe_for(given)
    assert recipe.estimator_options == {"discount": 0.9, "trace": 0.8}
    assert (recipe.dense_weight, recipe.dense_limit, recipe.missing_end_penalty) == (0.3, 0.2, 1.5)
    assert (recipe.multiplier, recipe.kl_share) == (2.0, 0.25)
    plain = PpoPlayer.recipe_for(Ppo())
    assert (plain.dense_weight, plain.multiplier) == (0.0, None)  # no model pays, and nothing costs


def test_a_dpo_policy_pays_by_the_token(tiny_folder, unbroken, tmp_path):
    """The start itself as that policy has log-ratio 0 and changes nothing; a trained one pays."""
    options = {"updates": 1, "epochs": 1, "rounds": 1}
    plain = play(tiny_folder, tmp_path / "plain", **options)
    nothing = play(tiny_folder, tmp_path / "nothing", dense__model=tiny_folder, **options)
    trained = sorted((unbroken["own"] / "checkpoints").iterdir())[-1]
    paid = play(tiny_folder, tmp_path / "paid", dense__model=trained, dense__weight=1.0, **options)
    assert weights(nothing) == weights(plain)
    a, b = rounds(plain)[0][0], rounds(paid)[0][0]
    assert (a.return_value != b.return_value).any()
    assert np.abs(a.return_value - b.return_value).max() <= 0.05 * len(a.rollout) + 1e-6


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"critic__trunk": "shared", "critic__start": "x"}, "--critic.start x changes nothing"),
        ({"critic__trace": 1.5}, "between 0 and 1"),
        ({"kl__target": 3, "parts__reward_beta": 0}, "never moves"),
        ({"kl__stop": 0.1, "staleness": 1}, "--staleness 0"),
        ({"critic__discount": -0.1}, "between 0 and 1"),
        ({"kl__stop": -1}, "none is below 0"),
        ({"kl__target": "nan"}, "none is below 0"),
        ({"kl__horizon": 0}, "none is below 0"),
        ({"cost__multiplier": 9}, "--cost.largest"),
        ({"cost__multiplier": 0}, "above 0"),
        ({"cost__multiplier": "nan"}, "above 0"),
        ({"cost__episodes": 0}, "1 or more"),
        ({"cost__kl_share": 1.5}, "a share"),
        ({"cost__rate": -0.1}, "--cost.rate -0.1 above 0"),
        ({"cost__limit": "nan"}, "--cost.limit nan a number"),
        ({"cost__limit": 1}, "Without --cost.reward the other --cost options change nothing"),
        ({"dense__weight": 1}, "Without --dense.model the other --dense options change nothing"),
        ({"dense__model": "x", "dense__limit": -1}, "--dense.limit is -1"),
        ({"parts__estimator": "group_mean"}, "without a critic"),
        ({"dense__model": "x", "dense__weight": 0}, "--dense.weight 0 changes nothing"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_written(tiny_folder, tmp_path, capsys, options, says):
    play(tiny_folder, tmp_path / "run", code=2, **options)
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_without_an_environment_it_says_so(capsys):
    assert status(["ppo"]) == 2
    assert "--env" in capsys.readouterr().err
