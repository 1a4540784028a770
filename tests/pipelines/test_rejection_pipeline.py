"""`rung rft` and `rung ssd` end to end on a tiny model: what is kept on disk, resumed, refused, trained on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rl_case import ENV, files

import rung.pipelines.rejection as rejection
from rung.cli import status
from rung.pipelines.hints import HINT, hinted, load_hint, plain_reference
from rung.rewards.score import Score
from rung.rollouts.store import RolloutStore
from rung.run import Run


@pytest.fixture(autouse=True)
def quick():
    torch.set_num_threads(1)


def sample(folder, out, *more, command="rft", kind="even", code=0) -> Path:
    words = [
        command, "--env", f"{ENV}:make?kind={kind}", "--model", folder, "--out", out, "--precision", "fp32",
        "--max-tokens", 100, "--tasks", 5, "--samples", 4, "--prompts", 2, "--slots", 40, "--same", "none", *more,
    ]  # fmt: skip
    assert status([str(word) for word in words]) == code
    return Path(out)


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "demonstrations.jsonl").read_text().splitlines()]


EASY = ("--threshold", 0.5)


@pytest.fixture(scope="module")
def plain(tiny_folder, tmp_path_factory) -> Path:
    """Two stages; the tiny model ends few answers itself, so torn ones are many."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("rft") / "run"
    return sample(tiny_folder, out, *EASY, "--samples", 6, "--temperature", 1.0, 1.5, "--per-task", 2)


def test_what_is_kept_is_what_the_rollouts_say(plain):
    """Counted again from the Parquet files alone."""
    store, kept = RolloutStore(plain), rows(plain)
    every = {f"{n}/{i}": g for n in store.rounds() for i, g in enumerate(store.read(n))}
    report = json.loads((plain / "report.json").read_text())
    assert report["counts"]["sampled"] == len(every) and 0 < report["counts"]["kept"] == len(kept)
    assert report["counts"]["truncated"] == sum(g.rollout.finish != "stop" for g in every.values())
    wrong = sum(g.rollout.finish == "stop" and g.verdict.value < 0.5 for g in every.values())
    assert report["counts"]["wrong"] == wrong
    assert sum(v for k, v in report["counts"].items() if k != "sampled") == len(every)
    for row in kept:
        graded = every[row["rollout"]]
        assert isinstance(graded.verdict, Score) and graded.verdict.value == row["score"] >= 0.5
        assert graded.rollout.finish == "stop" and graded.rollout.task == row["task"]
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
        assert row["messages"][-1]["content"] == graded.rollout.text
        assert graded.rollout.digest == Run.open(plain).config()["start_digest"]
        assert not graded.advantage.any()
    tasks = [row["task"] for row in kept]
    assert max(map(tasks.count, tasks)) <= 2
    assert Run.open(plain).status()["state"] == "finished"
    assert [row["step"] for row in Run.open(plain).metrics()] == [n + 1 for n in store.rounds()]


def test_a_stage_has_its_temperature_and_asks_only_tasks_that_lack_answers(plain):
    tried = list(rejection.attempts_of(plain))
    first = [one for one in tried if one.stage == "temperature 1"]
    later = [one for one in tried if one.stage == "temperature 1.5"]
    assert len({one.task for one in first}) == 5 and later
    fates = rejection.select(first, rejection.Rule(threshold=0.5, per_task=2, same="none")).kept
    lack = {t for t in {one.task for one in first} if sum(one.task == t for one in fates) < 2}
    assert {one.task for one in later} == lack and lack != {one.task for one in first}
    store = RolloutStore(plain)
    group_of = [{g.rollout.task: g.rollout.group for g in store.read(n)} for n in store.rounds()]
    begun = {task: group for found in group_of[:3] for task, group in found.items()}
    again = {task: group for found in group_of[3:] for task, group in found.items()}
    assert sorted(begun.values()) == list(range(5))
    assert again == {task: 5 + begun[task] for task in lack}  # a stage throws dice of its own
    for number, stage in ((0, first), (store.rounds()[-1], later)):
        found = [g.rollout for g in store.read(number)]
        same = all(np.array_equal(r.sampler_logprob, r.policy_logprob) for r in found)
        assert same == (stage is first)  # at temperature 1 the sampler is the policy


def test_the_same_again_and_resumed_after_a_stop_are_the_same_bytes(
    tiny_folder, plain, tmp_path, monkeypatch
):
    options = (*EASY, "--samples", 6, "--temperature", 1.0, 1.5, "--per-task", 2)
    make = rejection.Sampler._make

    def stopped_after_two(self, round, *rest):
        make(self, round, *rest)
        self.interrupt.asked = round == 1

    with monkeypatch.context() as patch:
        patch.setattr(rejection.Sampler, "_make", stopped_after_two)
        run = sample(tiny_folder, tmp_path / "run", *options, code=130)
    assert Run.open(run).status()["state"] == "stopped" and not (run / "demonstrations.jsonl").exists()
    assert len(RolloutStore(run).rounds()) == 2
    assert status(["rft", "--resume", str(run)]) == 0
    for part in ("rollouts", "attempts"):
        assert files(run, part) == files(plain, part)
    for name in ("demonstrations.jsonl", "report.json"):
        assert (run / name).read_bytes() == (plain / name).read_bytes()
    assert status(["rft", "--resume", str(run)]) == 2  # there is nothing left to do


def test_a_kill_between_the_files_of_a_round_leaves_no_trace(plain, tmp_path):
    """The Parquet file is written last: without it the round is made again."""
    run = tmp_path / "run"
    shutil.copytree(plain, run)
    last = RolloutStore(run).rounds()[-1]
    RolloutStore(run).path(last).unlink()
    (run / "attempts" / f"round-{last:06d}.jsonl").write_text("torn")
    for name in ("demonstrations.jsonl", "report.json"):
        (run / name).unlink()
    Run(run).stop("as if killed")
    assert status(["rft", "--resume", str(run)]) == 0
    assert files(run, "rollouts", "attempts") == files(plain, "rollouts", "attempts")
    assert (run / "demonstrations.jsonl").read_bytes() == (plain / "demonstrations.jsonl").read_bytes()
    assert len(Run.open(run).metrics()) == last + 1


@pytest.mark.parametrize(("key", "what"), [("start_digest", "weights"), ("data_digest", "tasks")])
def test_other_weights_and_other_tasks_are_refused(plain, tmp_path, capsys, key, what):
    run = tmp_path / "run"
    shutil.copytree(plain, run)
    config = json.loads((run / "config.json").read_text())
    config[key] = "0" * 64
    (run / "config.json").write_text(json.dumps(config))
    Run(run).stop("as if killed")
    assert status(["rft", "--resume", str(run)]) == 2
    assert f"was started with other {what}" in " ".join(capsys.readouterr().err.split())
    assert Run.open(run).status()["reason"] == f"its {what} have changed"


def test_the_rows_train_and_mix_by_weight(tiny_folder, plain, rows_file, tmp_path):
    data = [f"{plain / 'demonstrations.jsonl'}:0.8", f"{rows_file}:0.2"]
    words = [
        "sft",
        "--data",
        *data,
        "--model",
        str(tiny_folder),
        "--out",
        str(tmp_path / "sft"),
        "--steps",
        "1",
    ]
    assert status([*words, "--precision", "fp32", "--max-length", "128"]) == 0


def test_nothing_left_is_an_error_with_counts_and_no_file(tiny_folder, tmp_path, capsys):
    run = sample(tiny_folder, tmp_path / "run", "--threshold", 2, code=2)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "Nothing is left to train on. Of 20 sampled: " in said and " wrong" in said and " truncated" in said
    )
    assert not (run / "demonstrations.jsonl").exists() and (run / "report.json").exists()
    assert Run.open(run).status()["state"] == "failed"
    assert len(list(rejection.attempts_of(run))) == 20


def test_a_hint_is_shown_to_unsolved_tasks_and_to_no_training_row(tiny_folder, tmp_path):
    run = sample(tiny_folder, tmp_path / "run", "--samples", 6, "--threshold", 0.55, "--rationalise")
    tried = list(rejection.attempts_of(run))
    shown = [one for one in tried if one.hinted]
    assert {one.stage for one in shown} == {"hinted"} and shown
    solved = {one.task for one in tried if not one.hinted and one.finish == "stop" and one.score >= 0.55}
    assert {one.task for one in shown} == {one.task for one in tried} - solved
    texts = {row["id"]: row["prompt"] for row in RolloutStore(run).scan(["id", "prompt"])}
    for one in tried:
        answer = one.task.rpartition(":")[2]
        assert (HINT.format(answer=answer) in texts[one.rollout]) == one.hinted
        assert "Hint" not in one.messages[0]["content"]
    assert all("Hint" not in json.dumps(row["messages"][0]) for row in rows(run))


def test_turns_of_the_world_stand_in_the_rows(tiny_folder, tmp_path):
    run = sample(
        tiny_folder, tmp_path / "run", "--threshold", 0.3, "--samples", 12, "--max-tokens", 50, kind="talk"
    )
    longest = max((row["messages"] for row in rows(run)), key=len)
    roles = [message["role"] for message in longest]
    assert len(roles) >= 4 and roles == ["user", "assistant"] * (len(roles) // 2)


def test_ssd_keeps_wrong_answers_from_a_truncated_distribution(tiny_folder, tmp_path):
    options = ("--samples", 8, "--per-task", 8, "--top-k", 1, "--no-drop-stubs")
    run = sample(tiny_folder, tmp_path / "run", *options, "--temperature", 1.5, command="ssd", code=2)
    graded = [g for n in RolloutStore(run).rounds() for g in RolloutStore(run).read(n)]
    assert all((g.rollout.sampler_logprob == 0).all() for g in graded)  # one token is left: it is certain
    assert all((g.rollout.policy_logprob < 0).all() for g in graded)
    hot = sample(tiny_folder, tmp_path / "hot", "--samples", 12, "--per-task", 12, "--top-p", 1.0, "--top-k", 0,
                 "--no-drop-stubs", command="ssd")  # fmt: skip
    counts = json.loads((hot / "report.json").read_text())["counts"]
    assert counts["wrong"] == 0 and min(row["score"] for row in rows(hot)) < 0.45
    assert counts["shortest"] == int(0.1 * (counts["kept"] + counts["shortest"]))


def test_judging_by_a_part_of_the_score(tiny_folder, tmp_path):
    run = sample(tiny_folder, tmp_path / "run", *EASY, "--part", "even")
    assert rows(run)
    sample(tiny_folder, tmp_path / "other", "--part", "odd", code=2)
    assert Run.open(tmp_path / "other").status()["state"] == "failed"


@pytest.mark.parametrize(
    "options",
    [
        ("--samples", "0"), ("--per-task", "0"), ("--tasks", "0"), ("--temperature", "0"),
        ("--temperature", "-1", "--samples", "1"), ("--shortest-share", "1"), ("--hint", "x.py:y"),
        ("--rationalise", "--select", "all"), ("--rationalise", "--hint", "nowhere.py:y"), ("--top-p", "0"),
        ("--select", "most"), ("--top-k", "-1"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_before_there_is_a_folder(tiny_folder, tmp_path, options):
    sample(tiny_folder, tmp_path / "run", *options, code=2)
    assert not (tmp_path / "run").exists()


def test_without_an_environment_it_says_so(capsys):
    assert status(["rft"]) == 2
    assert "--env" in capsys.readouterr().err


# ---- hints ----


def test_a_hint_stands_in_the_last_message_and_changes_nothing_else():
    from rung.envs.environment import Task

    task = Task(
        "t:1", ({"role": "system", "content": "s"}, {"role": "user", "content": "7 x 8?"}), "56", {"a": 1}
    )
    shown = hinted(task, plain_reference)
    assert (
        shown.messages[1]["content"].startswith("7 x 8?\n\n")
        and "the answer is 56." in shown.messages[1]["content"]
    )
    assert shown.messages[0] == task.messages[0]
    assert (shown.key, shown.reference, shown.extra) == (task.key, task.reference, task.extra)


def test_a_reference_that_is_no_answer_needs_a_function(tmp_path):
    from rung.envs.environment import Task
    from rung.errors import UserError

    task = Task("t:1", ({"role": "user", "content": "?"},), {"numbers": [1, 2], "target": 3})
    with pytest.raises(UserError, match="--hint"):
        plain_reference(task)
    file = tmp_path / "hints.py"
    file.write_text(
        "def show(task):\n    return '+'.join(map(str, task.reference['numbers']))\n\n\ndef no(t):\n    return 3\n"
    )
    assert "the answer is 1+2." in hinted(task, load_hint(f"{file}:show")).messages[0]["content"]
    with pytest.raises(UserError, match="gave 3"):
        hinted(task, load_hint(f"{file}:no"))
