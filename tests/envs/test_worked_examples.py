"""Every environment's worked example: right answers pass, wrong ones do not, in every answer format."""

import json
import pickle

import pytest

from rung.envs.load import load_environment
from rung.envs.play import play
from rung.rewards.score import Score

FORMATS = ["plain", "tags", "think"]


def specs(tmp_path):
    gsm8k = [
        {
            "question": f"Ann has {i} pens and buys 2. How many?",
            "answer": f"{i}+2=<<{i}+2={i + 2}>>{i + 2}\n#### {i + 2}",
        }
        for i in range(1000, 1030)
    ]
    problems = [
        {"problem": f"Solve $2x = {i}$.", "solution": rf"So \boxed{{\frac{{{i}}}{{2}}}}."}
        for i in range(1, 41, 2)
    ]
    rows = [{"prompt": f"Opposite of word {i}?", "answer": f"drow {i}"} for i in range(20)]
    for name, data in (("gsm8k", gsm8k), ("math", problems), ("rows", rows)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    files = [f"{name}:{tmp_path / name}.jsonl" for name in ("gsm8k", "math", "rows")]
    return [
        *files,
        "arithmetic",
        "countdown",
        "countdown?target=24&max_value=13",
        "lookup",
        "reasoning-gym/gcd",
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_right_answers_pass_and_wrong_ones_fail(tmp_path, format):
    for spec in specs(tmp_path):
        environment = load_environment(f"{spec}{'&' if '?' in spec else '?'}format={format}")
        example = environment.example
        right, wrong = (play(environment, example.task, turns)[1] for turns in (example.right, example.wrong))
        assert isinstance(right, Score) and right.value == 1, (spec, right)
        assert isinstance(wrong, Score) and wrong.value < 1, (spec, wrong)


@pytest.mark.parametrize(
    "spec", ["guess", "lookup?tools=search", "arithmetic?tools=calculator", "guess,lookup"]
)
def test_worlds_of_several_turns_too(spec):
    environment = load_environment(spec)
    attempt, verdict = play(environment, environment.example.task, environment.example.right)
    assert verdict.value == 1 and len(attempt.messages) > 2
    assert play(environment, environment.example.task, environment.example.wrong)[1].value == 0


def test_rewards_can_be_sent_to_another_process(tmp_path):
    for spec in [*specs(tmp_path), "guess", "arithmetic?tools=calculator", "arithmetic,guess"]:
        environment = load_environment(spec)
        example = environment.example
        attempt, verdict = play(environment, example.task, example.right)
        sent_reward, sent_attempt = pickle.loads(pickle.dumps((environment.reward, attempt)))
        assert sent_reward(sent_attempt) == verdict


def test_every_test_task_of_arithmetic_is_graded_by_its_own_answer():
    environment = load_environment("arithmetic?operations=+-*&digits=3", test_size=60)
    for task in environment.test:
        expression = task.messages[0]["content"].split("?")[0].removeprefix("What is ")
        assert play(environment, task, [f"I think.\nAnswer: {eval(expression)}"])[1].value == 1
        assert play(environment, task, [f"Answer: {eval(expression) + 1}"])[1].value == 0


def test_the_request_stands_at_the_end_and_is_short():
    for format, mark in (("plain", '"Answer:"'), ("tags", "</answer>"), ("think", "</think>")):
        text = load_environment(f"arithmetic?format={format}").train[0].messages[-1]["content"]
        assert mark in text.splitlines()[-1] and len(text) < 150
    assert "\n" not in load_environment("arithmetic?format=none").train[0].messages[-1]["content"]
