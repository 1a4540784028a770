"""Rewards inside `rung rl`: hostile, failing, flat, learnable; which groups a round keeps; what health says."""

import time

import numpy as np
import psutil
import pytest
import torch
from rl_case import ENV, files, play, rounds, steps, told
from tiny_env import Even, deed_of

from rung.cli import status
from rung.data.mixture import epoch_order
from rung.rewards.score import Abstain, Attempt, Failure, Score


@pytest.fixture(autouse=True)
def quick():
    torch.set_num_threads(1)


KIND = {
    "spin": "timeout", "sleep": "timeout", "raise": "exception", "none": "invalid", "nan": "invalid",
    "segfault": "crash", "exit": "crash",
}  # fmt: skip


def even(rollout) -> float:
    return Even()(Attempt((), "", token_ids=tuple(rollout.token_ids.tolist()))).value


def normalized(records) -> list[float]:
    """GRPO's advantages of a group from those of its answers that have a score; the others have none."""
    rewards = np.array([r.verdict.value if isinstance(r.verdict, Score) else np.nan for r in records])
    if np.sum(~np.isnan(rewards)) < 2 or np.nanmin(rewards) == np.nanmax(rewards):
        return [0.0] * len(records)
    found = (rewards - np.nanmean(rewards)) / (np.nanstd(rewards, ddof=1) + 1e-6)
    return [0.0 if value != value else float(value) for value in found]


def test_hostile_rewards_fail_alone_and_never_train(tiny_folder, tmp_path):
    note = tmp_path / "children"
    began = time.monotonic()
    run = play(
        tiny_folder, tmp_path / "run", kind=f"hostile&note={note}", rounds=2, prompts=8, group=8, max_tokens=4,
        grader_seconds=0.5, test_tasks=0, temperature=1.0,
    )  # fmt: skip
    assert time.monotonic() - began < 60
    deeds = set()
    for graded, row in zip(rounds(run), steps(run), strict=True):
        failed = 0
        groups: dict[int, list] = {}
        for record in graded:
            deed = deed_of(record.rollout.token_ids.tolist())
            deeds.add(deed)
            if deed in KIND:
                assert isinstance(record.verdict, Failure) and record.verdict.kind == KIND[deed], (
                    deed,
                    record.verdict,
                )
                assert not record.weight.any() and not record.advantage.any()
                failed += 1
            else:
                assert isinstance(record.verdict, Score) and record.verdict.value == even(record.rollout)
            groups.setdefault(record.rollout.group, []).append(record)
        assert row["reward_failures"] == failed / len(graded) > 0
        for group in groups.values():
            found = [float(record.advantage[0]) for record in group]
            assert found == pytest.approx(normalized(group), abs=1e-5)
        kept = [record for record in graded if record.advantage.any()]  # what has no credit is only counted
        assert row["trained_tokens"] == sum(int(record.rollout.by_model.sum()) for record in kept)
    assert deeds == {"", "fork", *KIND}, "the seed no longer shows every misdeed"
    for child in note.read_text().split():
        assert (
            not psutil.pid_exists(int(child)) or psutil.Process(int(child)).status() == psutil.STATUS_ZOMBIE
        )
    assert not [
        c for c in psutil.Process().children(recursive=True) if "rung.rewards" in " ".join(c.cmdline())
    ]


def test_a_reward_that_always_fails_stops_the_run_without_a_checkpoint(tiny_folder, tmp_path, capsys):
    run = play(tiny_folder, tmp_path / "run", kind="broken", code=1)
    said = " ".join(capsys.readouterr().err.split())
    assert "None of 12 rollouts got a score" in said and "this grader is broken" in said
    assert told(run)["state"] == "failed"
    assert files(run, "checkpoints", "rollouts") == {} and not (run / "LATEST").exists()


MENDABLE = """
from pathlib import Path
def reward(attempt):
    folder = Path(__file__).parent
    if (folder / "run" / "LATEST").exists() and not (folder / "mended").exists():
        raise RuntimeError("not today")
    return sum(token % 2 == 0 for token in attempt.token_ids) / len(attempt.token_ids)
"""


def test_a_reward_can_be_mended_and_the_run_resumed(tiny_folder, tmp_path, capsys):
    file = tmp_path / "reward.py"
    file.write_text(MENDABLE)
    run = play(tiny_folder, tmp_path / "run", code=1, reward=f"{file}:reward", save_every=1, test_tasks=0)
    assert (run / "LATEST").read_text().strip() == "step-000001"
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-000001"]
    (tmp_path / "mended").touch()
    assert status(["rl", "--resume", str(run)]) == 0
    played = rounds(run)
    assert [row["reward_failures"] for row in steps(run)] == [0, 0, 0]
    assert all(record.verdict.value == even(record.rollout) for graded in played for record in graded)


def test_abstentions_leave_their_group_before_its_mean(tiny_folder, tmp_path):
    run = play(tiny_folder, tmp_path / "run", kind="unsure", rounds=2)
    for graded, row in zip(rounds(run), steps(run), strict=True):
        unsure = [record for record in graded if isinstance(record.verdict, Abstain)]
        assert row["reward_abstains"] == len(unsure) / len(graded) > 0
        assert not any(record.weight.any() for record in unsure)
        for group in {record.rollout.group for record in graded}:
            members = [record for record in graded if record.rollout.group == group]
            expected = normalized(members)
            assert [float(r.advantage[0]) for r in members] == pytest.approx(expected, abs=1e-5)


# ---- what a round keeps ----


def test_dynamic_sampling_plays_waves_until_enough_groups_differ(tiny_folder, tmp_path):
    """Oracle: the tasks in order of the epochs; odd ones pay all alike. The first three of the others are kept."""
    options = {"method": "dapo", "updates": 1, "parts__overlong_filter": "false", "waves": 5, "rounds": 3}
    run = play(tiny_folder, tmp_path / "run", kind="sometimes", **options)
    tasks = [f"tiny-sometimes:{index}" for index in range(4, 28)]
    for number, graded in enumerate(rounds(run)):
        start = number * 5 * 3
        named = {}
        for index in range(start, start + 15):
            epoch, place = divmod(index, len(tasks))
            named[index] = tasks[int(epoch_order([len(tasks)], None, 0, epoch)[place])]
        good = [index for index in named if int(named[index].rpartition(":")[2]) % 2 == 0]
        kept = sorted({record.rollout.group for record in graded})
        assert kept == good[:3]
        assert all(record.rollout.task == named[record.rollout.group] for record in graded)
        assert all(record.weight[record.rollout.by_model].all() for record in graded)
    assert [row["dead_groups"] for row in steps(run)] == [0, 0, 0]


def test_waves_end_and_dead_groups_fill_up(tiny_folder, tmp_path):
    options = {"method": "dapo", "updates": 1, "parts__overlong_filter": "false", "waves": 1, "rounds": 2}
    run = play(tiny_folder, tmp_path / "run", kind="sometimes", prompts=6, **options)
    for graded in rounds(run):
        groups = {record.rollout.group: record.rollout.task for record in graded}
        assert len(groups) == 6
        for record in graded:
            odd = int(record.rollout.task.rpartition(":")[2]) % 2
            assert record.weight.any() == (not odd)


@pytest.mark.parametrize("method", ["grpo", "dapo", "rloo"])
def test_rounds_without_signal_do_not_end_the_run_nor_move_it(tiny_folder, tmp_path, method):
    options = {"method": method, "updates": 2, "rounds": 2, "optimizer__weight_decay": 0}
    options |= {"parts__kl_in_reward": "none", "parts__reward_beta": 0} if method == "rloo" else {}
    run = play(tiny_folder, tmp_path / "run", kind="equal", **options)
    assert [row["grad_norm"] for row in steps(run)] == [0, 0, 0, 0]
    assert [row["dead_groups"] for row in steps(run) if "round" in row] == [1, 1]
    from safetensors.torch import load_file

    before, after = (
        load_file(f / "model.safetensors") for f in (tiny_folder, run / "checkpoints/step-000004")
    )
    assert all(torch.equal(after[name], before[name]) for name in after)


def test_more_updates_than_rollouts_with_credit(tiny_folder, tmp_path):
    """Twenty updates for twenty answers, of which some have no credit: no update is empty, none is repeated."""
    options = {"method": "dapo", "updates": 20, "parts__overlong_filter": "false", "waves": 1, "rounds": 2}
    run = play(tiny_folder, tmp_path / "run", kind="sometimes", prompts=5, **options)
    assert len(steps(run)) == 40
    for number, graded in enumerate(rounds(run)):
        kept = sum(int(record.rollout.by_model.sum()) for record in graded if record.weight.any())
        assert 0 < kept < sum(int(record.rollout.by_model.sum()) for record in graded)
        own = steps(run)[20 * number : 20 * number + 20]
        assert all(row["trained_tokens"] > 0 for row in own)
        assert sum(row["trained_tokens"] for row in own) == sum(len(record.rollout) for record in graded)


def test_the_overlong_filter_leaves_cut_answers_out(tiny_folder, tmp_path):
    run = play(
        tiny_folder, tmp_path / "run", parts__overlong_filter="true", max_tokens=100, group=6, rounds=1
    )
    [graded] = rounds(run)
    ends = {record.rollout.finish for record in graded}
    assert ends == {"stop", "length"}, "the seed no longer shows both"
    for record in graded:
        assert record.weight.any() == (record.rollout.finish == "stop")


def test_remax_is_paid_above_the_greedy_answer(tiny_folder, tmp_path):
    """The greedy answer to a prompt is found here by sampling at temperature 0 with the same start weights."""
    from rung.envs.load import load_environment
    from rung.models.load import load_model
    from rung.rollouts.engine import Engine
    from rung.rollouts.request import Sampling

    run = play(tiny_folder, tmp_path / "run", method="remax", group=2, rounds=1)
    assert load_environment(f"{ENV}:make").name == "tiny-even"
    engine = Engine(load_model(tiny_folder))
    [graded] = rounds(run)
    assert len(graded) == 6  # greedy answers are no rollouts
    for record in graded:
        [[greedy]] = engine.generate([record.rollout.prompt_ids.tolist()], Sampling(8, 0.0, stop_ids=(2,)))
        baseline = sum(token % 2 == 0 for token in greedy.token_ids) / len(greedy.token_ids)
        assert record.advantage == pytest.approx(record.verdict.value - baseline, abs=1e-6)


# ---- learning, and health ----


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_can_be_learned_is_learned_and_health_is_silent(tiny_folder, tmp_path, seed, capsys):
    options = {"rounds": 15, "prompts": 6, "group": 8, "seed": seed, "optimizer__learning_rate": 0.01}
    run = play(tiny_folder, tmp_path / "run", micro_tokens=4096, slots=48, **options)
    rewards = [row["reward"] for row in steps(run)]
    assert np.mean(rewards[:2]) < 0.6 and np.mean(rewards[-3:]) > 0.8
    assert steps(run)[-1]["heldout_score"] > 0.75
    said = capsys.readouterr().err
    assert "finding" not in said.replace("finding  truncated", "")  # a random model cannot end an answer


@pytest.mark.parametrize("method", ["remax", "reinforce_plus_plus"])
def test_a_group_of_one_is_not_dead(tiny_folder, tmp_path, method, capsys):
    run = play(tiny_folder, tmp_path / "run", method=method, group=1, prompts=6, rounds=12)
    assert "dead groups" not in capsys.readouterr().err
    assert max(row["dead_groups"] for row in steps(run)) == 0
