"""`rung rl` end to end on a tiny model: what each round holds, what may not change it, what is refused."""

import typing

import numpy as np
import pytest
import torch
from rl_case import play, rounds, steps, told, weights, words

from rung.advantages.recipes import RECIPES
from rung.cli import status
from rung.settings_rl import RecipeName


@pytest.fixture(autouse=True)
def quick():
    torch.set_num_threads(1)


def every(run, name) -> list:
    return [row[name] for row in steps(run) if name in row]


def same_rollout(one, two) -> bool:
    """Tokens and, to the bit, the numbers of the sampler."""
    names = ("prompt_ids", "token_ids", "by_model", "sampler_logprob", "policy_logprob", "entropy")
    return all(np.array_equal(getattr(one, n), getattr(two, n)) for n in names)


# ---- on-policy, and stale ----


@pytest.mark.parametrize("options", [{}, {"updates": 3, "rounds": 2}, {"kind": "talk", "max_tokens": 16}])
def test_sampler_and_learner_agree_to_the_bit_in_batch_invariant_mode(tiny_folder, tmp_path, options):
    run = play(tiny_folder, tmp_path / "run", batch_invariant=True, **options)
    first = [row for row in steps(run) if "round" in row]  # the first update of each round
    assert {(row["sampler_gap_max"], row["sampler_gap"], row["sampler_kl3"]) for row in first} == {(0, 0, 0)}
    assert {(row["importance_mean"], row["importance_square"], row["ratio_max"]) for row in first} == {
        (1, 1, 1)
    }
    assert all(row["sampler_gap_max"] == 0 for row in steps(run))
    if "updates" in options:
        later = [row for row in steps(run) if "round" not in row]
        assert all(row["ratio_max"] > 1.001 for row in later)
        for graded in rounds(run):
            for record in graded:
                assert np.array_equal(record.old_logprob, record.rollout.sampler_logprob)


def test_a_learner_on_other_weights_would_be_seen(tiny_folder, tmp_path):
    """The gap is no constant: sampling at another temperature than the policy's own shows in policy_logprob."""
    run = play(tiny_folder, tmp_path / "run", temperature=0.7, batch_invariant=True, rounds=1, prompts=2)
    assert every(run, "sampler_gap_max") == [0]
    rollouts = [record.rollout for record in rounds(run)[0]]
    assert all(not np.allclose(r.sampler_logprob, r.policy_logprob, atol=1e-3) for r in rollouts)


def test_without_it_the_gap_is_rounding_alone(tiny_folder, tmp_path):
    run = play(tiny_folder, tmp_path / "run", top_p=1.0)
    assert 0 < max(every(run, "sampler_gap_max")) < 1e-5


def test_staleness_0_is_the_synchronous_run(tiny_folder, tmp_path):
    plain, zero = (play(tiny_folder, tmp_path / n, **o) for n, o in (("a", {}), ("b", {"staleness": 0})))
    assert steps(plain) == steps(zero) and weights(plain) == weights(zero)


@pytest.mark.parametrize(("staleness", "updates"), [(1, 1), (2, 1), (1, 2)])
def test_stale_rounds_are_as_old_as_allowed_and_no_older(tiny_folder, tmp_path, staleness, updates):
    options = {"staleness": staleness, "updates": updates, "rounds": 5, "eval_every": 1}
    run, again = (play(tiny_folder, tmp_path / name, **options) for name in "ab")
    played = rounds(run)
    assert len(played) == 5 and len(steps(run)) == 5 * updates
    digests = {}
    for number, graded in enumerate(played):
        expected = max(number - staleness, 0) * updates
        for record in graded:
            assert set(record.rollout.version[record.rollout.by_model]) == {expected}
            assert np.array_equal(record.old_logprob, record.rollout.sampler_logprob)
            digests.setdefault(expected, set()).add(record.rollout.digest)
    assert all(len(names) == 1 for names in digests.values())
    assert len(set.union(*digests.values())) == len(digests)  # other weights under every version
    assert steps(run) == steps(again) and weights(run) == weights(again)
    assert steps(run)[0]["ratio_max"] == pytest.approx(1, abs=1e-5)  # the first round is fresh
    assert max(every(run, "ratio_max")[updates:]) > 1.001


def test_held_out_tasks_are_judged_with_the_weights_of_now(tiny_folder, tmp_path):
    """The first evaluation follows one step, whose weights are the same however far sampling runs ahead."""
    options = {"eval_every": 1, "rounds": 1, "eval_temperature": 1.0, "loss__correction": "none"}
    fresh = play(tiny_folder, tmp_path / "fresh", **options)
    stale = play(tiny_folder, tmp_path / "stale", **options, staleness=1)
    assert every(fresh, "heldout_score") == every(stale, "heldout_score")


def test_a_stale_run_stops_and_resumes(tiny_folder, tmp_path, monkeypatch):
    import rung.train

    original, calls = rung.train._finish_gradients, [0]

    def failing(*args, **kwargs):
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(rung.train, "_finish_gradients", failing)
    line = words(tiny_folder, tmp_path / "run", staleness=2, rounds=6, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        raise_through(line)
    monkeypatch.setattr(rung.train, "_finish_gradients", original)
    assert status(["rl", "--resume", str(tmp_path / "run")]) == 0
    played = rounds(tmp_path / "run")
    versions = [int(graded[0].rollout.version[0]) for graded in played]
    assert versions[:3] == [0, 0, 0] and len(played) == 6
    # rounds that were begun stay; what had been sampled ahead is sampled anew, with the weights of the checkpoint
    assert all(number - 2 <= version <= number for number, version in enumerate(versions))
    assert len(steps(tmp_path / "run")) == 6


def raise_through(line):
    """`status` turns an interruption into an exit code; the tests above want it itself."""
    code = status(line)
    if code:
        raise KeyboardInterrupt


# ---- methods and their parts ----


def test_the_names_are_those_of_the_recipes():
    assert (*typing.get_args(RecipeName),) == tuple(
        name for name in RECIPES if name != "ppo"
    )  # its own command


@pytest.mark.parametrize("method", typing.get_args(RecipeName))
def test_every_method_runs_or_says_why_not(tiny_folder, tmp_path, method, capsys):
    options = {
        "method": method,
        "rounds": 2,
        "group": None,
        "prompts": 4,
        "max_tokens": 4,
        "micro_tokens": 1000,
    }
    recipe = RECIPES[method]
    if recipe.offline:
        play(tiny_folder, tmp_path / "run", code=2, **options)
        assert "--rounds 2 would draw again" in plain(capsys)
        assert not (tmp_path / "run").exists()
        options |= {"rounds": 1, "updates": 2}
    if recipe.overlong_filter:  # a random model hardly ever ends an answer by itself
        options["parts__overlong_filter"] = "false"
    run = play(tiny_folder, tmp_path / "run", **options)
    assert len(steps(run)) == (2 if recipe.offline else 2 * recipe.updates)
    for graded in rounds(run):
        groups = {record.rollout.group for record in graded}
        assert len(graded) == recipe.group_size * len(groups) and len(groups) == 4
        assert (graded[0].reference_logprob is not None) == recipe.needs_reference
        assert (graded[0].old_logprob is not None) == (recipe.updates > 1 or recipe.offline)
    assert every(run, "grad_norm")[0] > 0 and told(run)["state"] == "finished"


def plain(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


PARTS = {
    "loss__clip_low": 0.01, "loss__clip_high": 0.01, "loss__dual_clip": 1.01, "loss__aggregation": "token",
    "loss__beta": 0.5, "loss__entropy_bonus": 0.1, "parts__estimator": "group_mean", "parts__whiten": "true",
    "parts__token_credit": "entropy_mask", "parts__overlong_filter": "true",
}  # fmt: skip
PAIRS = [
    ({"loss__aggregation": "fixed"}, {"loss__aggregation": "fixed", "loss__max_length": 50}),
    ({"loss__beta": 0.5}, {"loss__beta": 0.5, "loss__kl": "k1"}),
    ({"top_p": 0.7}, {"top_p": 0.7, "loss__correction": "tis", "loss__correction_max": 0.9}),
    ({"top_p": 0.7, "loss__correction": "tis", "loss__correction_max": 0.7},
     {"top_p": 0.7, "loss__correction": "mis", "loss__correction_max": 0.7}),
    ({"top_p": 0.7, "loss__correction": "tis"},
     {"top_p": 0.7, "loss__correction": "tis", "loss__correction_level": "sequence"}),
    # The policy begins as its reference, to the bit: in the first round there is no KL to pay for.
    ({"rounds": 2}, {"rounds": 2, "parts__kl_in_reward": "answer", "parts__reward_beta": 0.1}),
    ({"rounds": 2, "parts__kl_in_reward": "answer", "parts__reward_beta": 0.1},
     {"rounds": 2, "parts__kl_in_reward": "token", "parts__reward_beta": 0.1}),
    ({}, {"parts__token_credit": "entropy_shaped"}),
]  # fmt: skip
PAIRS = [({}, {name: value}) for name, value in PARTS.items()] + PAIRS
FIRST = {
    "rounds": 1,
    "updates": 2,
    "min_tokens": 0,
    "max_tokens": 12,
    "optimizer__learning_rate": 0.02,
    "test_tasks": 0,
}


@pytest.fixture(scope="module")
def outcomes(tiny_folder, tmp_path_factory):
    known: dict[str, tuple] = {}

    def outcome(options) -> tuple:
        name = str(options)
        if name not in known:
            run = play(tiny_folder, tmp_path_factory.mktemp("part") / "run", **(FIRST | options))
            [content] = [v for k, v in weights(run).items() if k.endswith("/model.safetensors")]
            known[name] = (hash(content), every(run, "loss"))
        return known[name]

    return outcome


@pytest.mark.parametrize(("without", "with_part"), PAIRS, ids=lambda options: " ".join(options) or "plain")
def test_each_part_changes_the_update(outcomes, without, with_part):
    (before, before_losses), (after, losses) = outcomes(without), outcomes(with_part)
    assert losses != before_losses
    assert after != before or "loss__kl" in with_part  # all estimators are shown, one gradient is followed


REFUSED = [
    ({"method": "rloo", "loss__clip_low": 0.1}, "--loss.clip-low 0.1 changes nothing"),
    ({"method": "cispo", "loss__dual_clip": 3}, "--loss.dual-clip 3.0 changes nothing"),
    ({"loss__max_length": 10}, "--loss.max-length 10 changes nothing"),
    ({"loss__kl": "k2"}, "--loss.kl k2 changes nothing"),
    ({"loss__correction_max": 3}, "--loss.correction-max 3.0 changes nothing"),
    ({"parts__reward_beta": 0.1}, "--parts.reward-beta 0.1 changes nothing"),
    ({"parts__kl_in_reward": "token"}, "--parts.kl-in-reward token changes nothing"),
    ({"group": 1}, "--group 1 leaves none to compare with"),
    ({"updates": 3, "epochs": 2}, "3 updates a round cannot go through it 2 times evenly. Write --updates 2"),
    ({"updates": 13}, "3 prompts x 4 answers are too few for 13 updates"),
    ({"updates": 0}, "--updates is 0"),
    ({"prompts": 0}, "--prompts is 0"),
    ({"staleness": -1}, "--staleness is -1"),
    ({"temperature": 0}, "--temperature 0.0 would give every answer"),
    ({"env": ""}, "No environment was given"),
    ({"env": "arithmetik"}, "did you mean arithmetic"),
    ({"kind": "long"}, "there is no room for an answer"),
    ({"max_length": 20}, "there is no room for an answer"),
    ({"method": "gpro"}, "gpro"),
    ({"model": "/nowhere/at/all"}, "/nowhere/at/all"),
    ({"parts__estimator": "grup"}, "grup"),
    ({"parts__nonsense": 1}, "nonsense"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "says"), REFUSED, ids=lambda x: " ".join(x) if isinstance(x, dict) else ""
)
def test_what_cannot_work_is_refused_before_anything_is_written(tiny_folder, tmp_path, options, says, capsys):
    play(tiny_folder, tmp_path / "run", code=2, **options)
    assert says in plain(capsys).replace("- ", "-")
    assert not (tmp_path / "run").exists()


def test_a_model_without_chat_template_is_refused(tiny_folder, tmp_path, capsys):
    import json
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    file = folder / "tokenizer_config.json"
    file.write_text(
        json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "chat_template"})
    )
    play(folder, tmp_path / "run", code=2)
    assert "no chat template" in plain(capsys)
    assert not (tmp_path / "run").exists()


def test_resuming_with_other_settings_or_by_another_command_is_refused(tiny_folder, tmp_path, capsys):
    run = play(tiny_folder, tmp_path / "run", kind="broken", code=1)
    before = sorted(path.name for path in run.rglob("*"))
    assert status(["rl", "--resume", str(run), "--prompts", "5"]) == 2
    assert "prompts: started with 3, now 5" in plain(capsys)
    assert status(["grpo", "--resume", str(run)]) == 2
    assert "rung rl --resume" in plain(capsys)
    assert sorted(path.name for path in run.rglob("*")) == before
