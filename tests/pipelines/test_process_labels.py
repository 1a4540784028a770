"""Labels of steps in a world whose every ending is known, then on a tiny model through the commands."""

import json
from itertools import product

import pytest
import torch

from rung.batch import Example
from rung.cli import status
from rung.envs.environment import Task
from rung.errors import UserError
from rung.pipelines.process_labels import Ending, judge_steps, steps_of
from rung.rewards.score import Abstain, Failure, Score

END = "\n\n"
TASK = Task("t:0", ({"role": "user", "content": "write three good steps"},), 3)


def enumerate_endings(tasks, starts, n, seed):
    """All 2^k ways to write the k steps that are missing, each once."""
    found = []
    for start in starts:
        missing = 3 - start.count(END)
        ways = [END.join(way) for way in product(["good", "bad"], repeat=missing)]
        assert len(ways) * (n // len(ways)) == n
        found.append([Ending(way) for way in ways for _ in range(n // len(ways))])
    return found


def all_good(attempts):
    return [Score(float(attempt.answer.split(END) == ["good"] * 3)) for attempt in attempts]


@pytest.mark.parametrize(
    ("solution", "shares"),
    [
        (["good", "good", "good"], [1 / 4, 1 / 2, 1]),
        (["good", "bad", "good"], [1 / 4, 0, 0]),
        (["bad", "good", "good"], [0, 0, 0]),
    ],
)
def test_the_estimate_is_the_chance_to_come_out_right_from_there(solution, shares):
    [judged] = judge_steps(
        [(TASK, Ending(END.join(solution)))], enumerate_endings, all_good, step_end=END, n=4
    )
    assert judged.steps == tuple(solution) and list(judged.shares) == pytest.approx(shares)
    assert judged.row("soft")["labels"] == pytest.approx(shares)
    assert judged.row("hard")["labels"] == [share > 0 for share in shares]
    assert judged.row("hard")["shares"] == pytest.approx(shares)


def test_solutions_of_several_tasks_keep_their_own_verdicts():
    other = Task("t:1", TASK.messages, 3)
    asked = [(TASK, Ending("good\n\nbad\n\ngood")), (other, Ending("good\n\ngood\n\ngood"))]
    first, second = judge_steps(asked, enumerate_endings, all_good, step_end=END, n=4)
    assert first.shares == (1 / 4, 0, 0) and second.shares == (1 / 4, 1 / 2, 1)
    assert (first.task.key, second.task.key) == ("t:0", "t:1")


def test_one_step_is_the_verdict_on_the_solution():
    [judged] = judge_steps([(TASK, Ending("good"))], enumerate_endings, all_good, step_end=END, n=4)
    assert judged.steps == ("good",) and judged.shares == (0,)


def test_failures_and_abstentions_are_no_evidence():
    def shaky(attempts):
        """The first ending of every three fails, the second abstains."""
        kinds = [Failure("timeout"), Abstain("who knows")]
        return [kinds[i % 3] if i and i % 3 < 2 else verdict for i, verdict in enumerate(all_good(attempts))]

    def six(tasks, starts, n, seed):
        return [[Ending("good\n\ngood" if start.count(END) == 1 else "good")] * 6 for start in starts]

    [judged] = judge_steps([(TASK, Ending("good\n\ngood\n\ngood"))], six, shaky, step_end=END, n=6)
    assert judged.shares[0] == 1 and judged.shares[1] == 1

    def never(attempts):
        return [Abstain("no")] * len(attempts)

    [judged] = judge_steps([(TASK, Ending("good\n\ngood\n\ngood"))], six, never, step_end=END, n=6)
    assert judged.shares == (None, None, None) and not judged.complete


def test_a_start_holds_the_end_of_its_last_step():
    seen = []

    def watch(tasks, starts, n, seed):
        seen.extend(starts)
        return [[Ending("good")] * n for _ in starts]

    judge_steps([(TASK, Ending("a\n\nb\n\nc"))], watch, all_good, step_end=END, n=2)
    assert seen == ["a\n\n", "a\n\nb\n\n"]


def test_steps_that_say_nothing_are_none():
    assert steps_of("\n\na\n\n\n\nb\n\n ", END) == ["a", "b"]


ENV = """
from dataclasses import dataclass
from rung.envs.environment import Environment, Task
from rung.rewards.score import Score

@dataclass(frozen=True)
class Vowels:
    trusted = True
    def __call__(self, attempt):
        return Score(float(sum(c in "aeiouAEIOU" for c in attempt.answer) % 2))

def make(*, seed=0, train_size=None, test_size=4):
    tasks = tuple(Task(f"v:{i}", ({"role": "user", "content": "ab" * i},), i) for i in range(8))
    return Environment("vowels", tasks[:4], tasks[4:4 + (test_size or 4)], Vowels())
"""


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    file = tmp_path_factory.mktemp("env") / "vowels.py"
    file.write_text(ENV)
    return f"{file}:make"


@pytest.fixture(autouse=True)
def one_thread(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


def test_data_steps_goes_on_where_it_stopped_and_trains_a_process_model(
    tiny_folder, env, tmp_path, capsys, monkeypatch
):
    out, whole = tmp_path / "steps.jsonl", tmp_path / "whole.jsonl"
    fixed = [
        "data",
        "steps",
        str(tiny_folder),
        "--env",
        env,
        "--tasks",
        "3",
        "--solutions",
        "2",
        "--completions",
        "2",
    ]
    fixed += [
        "--max-tokens",
        "24",
        "--step-end",
        "a",
        "--estimate",
        "soft",
        "--batch",
        "1",
        "--precision",
        "fp32",
    ]
    assert status([*fixed, "--out", str(whole)]) == 0
    from rung.rewards.workers import Graders

    original, calls = Graders.grade, []

    def breaks(self, attempts):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, attempts)

    monkeypatch.setattr(Graders, "grade", breaks)
    with pytest.raises(KeyboardInterrupt):
        from rung.commands.steps import DataSteps, main
        from rung.config import parse

        main(parse(DataSteps, [*fixed[2:], "--out", str(out)], "rung data steps"))
    assert not out.exists() and len(calls) == 3
    assert status([*fixed[:-2], "--precision", "bf16", "--out", str(out)]) == 2
    assert "with other settings" in capsys.readouterr().err
    assert status([*fixed, "--out", str(out)]) == 0
    assert len(calls) == 4 and out.read_text() == whole.read_text()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(len(r["completions"]) == len(r["labels"]) for r in rows) and {r["task"] for r in rows} <= {
        "v:0",
        "v:1",
        "v:2",
    }
    from rung.data.steps import load_steps
    from rung.models.hub import load_tokenizer

    steps = load_steps([str(out)], load_tokenizer(str(tiny_folder)), step_end="a", max_length=200)
    assert all(isinstance(example, Example) for example in steps.examples)
    assert status([*fixed, "--out", str(out)]) == 2


@pytest.fixture(scope="module")
def chooser(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chooser")
    rows = [
        {
            "prompt": [{"role": "user", "content": "ab"}],
            "completion": [{"role": "assistant", "content": "aei"[: i % 3] + f"x{i}"}],
            "label": bool(i % 3),
        }
        for i in range(12)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "reward",
        "--kind",
        "outcome",
        "--data",
        folder / "rows.jsonl",
        "--model",
        tiny_folder,
        "--out",
        folder / "rm",
    ]
    command += ["--max-length", "64", "--steps", "2", "--step-pairs", "4", "--precision", "fp32"]
    assert status([str(word) for word in command]) == 0
    return str(folder / "rm")


def test_bestofn_on_an_environment_keeps_what_its_model_likes_best(
    tiny_folder, env, chooser, tmp_path, capsys
):
    command = ["bestofn", str(tiny_folder), "--env", env, "--samples", "4", "--max-tokens", "8"]
    command += ["--out", str(tmp_path / "out"), "--precision", "fp32"]
    assert status([*command, "--reward", chooser]) == 0
    said = capsys.readouterr().out
    assert "best by reward model" in said and "pass@k" in said and "nats (KL)" in said
    rows = [json.loads(line) for line in (tmp_path / "out/best.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and all(
        row["score"] == max(s for s in row["scores"] if s is not None) for row in rows
    )
    assert status(command) == 0  # the same samples, the verifier alone
    again = [json.loads(line) for line in (tmp_path / "out/best.jsonl").read_text().splitlines()]
    assert all(row["score"] == row["verdict"] == max(row["scores"]) for row in again)


def test_bestofn_on_prompts_of_a_file(tiny_folder, chooser, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"prompt": [{"role": "user", "content": c}]}) + "\n" for c in "abc")
    )
    command = [
        "bestofn",
        str(tiny_folder),
        "--file",
        str(prompts),
        "--samples",
        "3",
        "--max-tokens",
        "8",
        "--precision",
        "fp32",
    ]
    assert status([*command, "--reward", chooser, "--out", str(tmp_path / "out")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out/best.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(
        len(row["scores"]) == 3 and row["score"] == max(row["scores"]) for row in rows
    )
    assert "score of the best" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--env", "arithmetic", "--file", "x.jsonl"], "either --env"),
        (["--file", "x.jsonl"], "say who chooses"),
        (["--env", "arithmetic", "--samples", "1"], "at least 2"),
        (["--env", "arithmetic", "--temperature", "0"], "same answer every time"),
    ],
)
def test_bestofn_refuses_what_cannot_be(tiny_folder, more, message, capsys):
    assert status(["bestofn", str(tiny_folder), *more]) == 2
    assert message in capsys.readouterr().err


def test_worlds_of_several_turns_have_no_steps(tiny_folder, tmp_path):
    assert (
        status(["data", "steps", str(tiny_folder), "--env", "guess", "--out", str(tmp_path / "x.jsonl")]) == 2
    )
    with pytest.raises(UserError, match="--step-end is empty"):
        from rung.commands.steps import DataSteps, check

        check(DataSteps(model="m", env="e", out=str(tmp_path / "x"), step_end=""))
