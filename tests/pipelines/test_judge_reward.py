"""Judge files as the reward of `rung rl`: ratings, rubrics of each row, critique, a judge that stumbles, a local one."""

import json

import pytest
import torch
from judge_server import server

from rung import endpoint
from rung.cli import status
from rung.errors import UserError
from rung.pipelines.judging import reward_named
from rung.rewards.score import Abstain, Score
from rung.rollouts.store import RolloutStore


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(endpoint, "PAUSES", (0.01,))


def run(tiny_folder, folder, judge):
    (folder / "judge.yaml").write_text("".join(f"{key}: {value}\n" for key, value in judge.items()))
    rows = [{"prompt": f"say {i}", "answer": "x", "rubric": ["short", "kind"]} for i in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = f"""rl --model {tiny_folder} --env rows:{folder / "rows.jsonl"}?reward=exact&format=plain
        --reward {folder / "judge.yaml"} --rounds 1 --prompts 2 --group 4 --max-tokens 4 --test-tasks 0
        --precision fp32 --out {folder / "run"}""".split()
    code = status(words)
    return code, RolloutStore(folder / "run").read(0) if code == 0 else []


def lengthy(asked):
    return f"Rating: {len(asked['messages'][-1]['content']) % 10 + 1}"


def test_ratings_of_a_server_that_is_busy_now_and_then(tiny_folder, tmp_path):
    with server() as state:
        state.say = lengthy
        state.trouble = lambda number: 429 if number in (1, 4) else 400 if number == 3 else None
        code, played = run(tiny_folder, tmp_path, {"judge": state.url, "concurrency": 1})
    assert code == 0 and len(played) == 8
    verdicts = [each.verdict for each in played]
    different = {json.dumps(asked) for asked in state.asked}
    kept = (tmp_path / "judgements.jsonl").read_text().splitlines()
    assert len(kept) == len(different) - 1  # all but the one that was refused
    assert any(isinstance(v, Abstain) and "400" in v.reason for v in verdicts)
    assert all(isinstance(v, Score | Abstain) for v in verdicts)


def test_a_judge_that_is_down_throughout_stops_the_run_and_is_no_zero(tiny_folder, tmp_path, capsys):
    with server() as state:
        state.trouble = lambda number: 503
        code, _ = run(tiny_folder, tmp_path, {"judge": state.url})
    assert code == 1 and "None of 8 rollouts got a score" in capsys.readouterr().err


def test_each_rows_own_rubric(tiny_folder, tmp_path):
    with server() as state:
        state.say = lambda asked: (
            "Passed: " + ("yes" if "short\n</criterion" in asked["messages"][-1]["content"] else "no")
        )
        code, played = run(tiny_folder, tmp_path, {"judge": state.url, "by": "rubric"})
    assert code == 0 and {each.verdict.value for each in played} == {0.5}


def test_critique_compares_within_the_group(tiny_folder, tmp_path):
    with server() as state:
        state.say = lambda asked: "Verdict: tie"
        code, played = run(tiny_folder, tmp_path, {"judge": state.url, "by": "critique"})
    assert code == 0 and {each.verdict.value for each in played} == {0.5}
    assert {each.verdict.parts["duels"] for each in played} == {3.0}


def test_a_model_on_this_machine_judges_in_process(tiny_folder, tmp_path, capsys):
    code, _ = run(tiny_folder, tmp_path, {"judge": tiny_folder, "judge_tokens": 4})
    # It has random weights and says nothing readable; that is said, and nothing is scored 0.
    assert code == 1
    said = capsys.readouterr().err
    assert "the judge gave no rating" in said or "reads 256" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("by: rating\n", "nobody judges"),
        ("judge: x\nby: rateing\n", "rateing"),
        ("judge: x\njugde_name: y\n", "judge_name"),
        ("judge: x\nrubric: missing.yaml\nby: rubric\n", "there is no rubric"),
        ("judge: x\ntimeout: 0\n", "timeout is 0"),
        ("judge: http://127.0.0.1:1/v1\n", "cannot be asked which models"),
    ],
)
def test_a_judge_file_that_cannot_work_says_so_at_once(text, message, tmp_path):
    (tmp_path / "judge.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        reward_named(str(tmp_path / "judge.yaml"))
    assert [file.name for file in tmp_path.iterdir()] == ["judge.yaml"]
