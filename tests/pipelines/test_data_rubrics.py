"""Rubrics written for rows, and used: from `rung data rubrics` to the reward of the rows it wrote."""

import json

import pytest
from judge_server import Fake, server

from rung import endpoint
from rung.cli import status
from rung.envs.load import load_environment
from rung.rewards.asking import Ledger
from rung.rewards.rubric import RubricReward
from rung.rewards.score import Attempt

LIST = [{"criterion": f"says {word}", "weight": "important"} for word in ("one", "two", "three")]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSES", (0.01,))


def command(tmp_path, state, *words):
    rows = [{"prompt": f"q{i}", "answer": "x", "completion": f"good {i}"} for i in range(4)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--judge", state.url, "--out", str(tmp_path / "o.jsonl"), "--concurrency", "1", *words]
    return status(["data", "rubrics", str(tmp_path / "r.jsonl"), *words])


def test_rows_get_rubrics_that_the_reward_reads(tmp_path, capsys):
    with server() as state:
        state.say = lambda asked: "none" if "good 2" in asked["messages"][-1]["content"] else json.dumps(LIST)
        assert command(tmp_path, state) == 0 and state.asked[0]["max_tokens"] == 1536
        assert "good 0" in state.asked[0]["messages"][-1]["content"]
    assert "1  no rubric in the reply" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["q0", "q1", "q3"] and rows[0]["rubric"] == LIST
    environment = load_environment(f"rows:{tmp_path / 'o.jsonl'}?reward=exact&format=plain", test_size=0)
    task = environment.train[0]
    reward = RubricReward(
        Ledger(Fake(lambda q: "Passed: " + ("no" if "says two" in q.messages[-1]["content"] else "yes")))
    )
    found = reward(Attempt(tuple(task.messages), "an answer", extra=task.extra, task=task.key))
    assert found.value == pytest.approx(2 / 3) and found.parts["important"] == pytest.approx(2 / 3)


def test_a_judge_that_dies_goes_on_and_no_rubric_at_all_is_an_error(tmp_path, capsys):
    with server() as state:
        state.trouble = lambda number: 500 if number >= 2 else None
        state.say = lambda asked: "none"
        assert command(tmp_path, state) == 1 and "the same command goes on" in capsys.readouterr().err
        state.trouble, state.asked = (lambda number: None), []
        assert command(tmp_path, state) == 1 and len(state.asked) == 2
    assert "no row has a rubric" in capsys.readouterr().err and not (tmp_path / "o.jsonl").exists()
    assert status(["data", "rubrics", str(tmp_path / "r.jsonl"), "--out", str(tmp_path / "o.jsonl")]) == 2
    assert status(["data", "rubrics", str(tmp_path / "r.jsonl"), "--out", "o"]) == 2
