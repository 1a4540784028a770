"""Environments for the tests of evaluation: `eval_env.py:make?kind=...`. What is graded are characters, not sense."""

import json
from dataclasses import dataclass

from rung.envs.environment import Environment, Task
from rung.rewards.score import Attempt, Score


@dataclass(frozen=True)
class Letters:
    """1 if the answer has more letters than its reference asks; judged in a worker, which notes what it judged."""

    note: str = ""

    def __call__(self, attempt: Attempt) -> Score:
        if self.note:
            with open(self.note, "a") as file:
                file.write(json.dumps([attempt.task, attempt.answer, list(attempt.token_ids)]) + "\n")
        return Score(grade(attempt))


def grade(attempt: Attempt) -> float:
    return float(sum(c.isalpha() for c in attempt.answer) > attempt.reference["letters"])


@dataclass(frozen=True)
class Broken:
    """Fails on every second task."""

    def __call__(self, attempt: Attempt) -> Score:
        if attempt.reference["number"] % 2:
            raise RuntimeError("no verdict from me")
        return Score(grade(attempt))


@dataclass(frozen=True)
class Talk:
    """Sees the whole conversation."""

    def __call__(self, attempt: Attempt) -> Score:
        return Score(float(len(attempt.messages)) + attempt.tokens / 1000)


def on_and_on(task: Task, messages) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{len(messages)}, go on"}]


def make(kind="letters", note="", *, seed=0, train_size=None, test_size=5) -> Environment:
    tasks = [
        Task(
            f"{kind}:{i}",
            ({"role": "user", "content": f"say {'ab' * (i * 5 % 7)}"},),
            {"letters": i % 3, "number": i, "pair": (i, 1)},
        )
        for i in range(test_size or 5)
    ]
    reward = {"letters": Letters(note), "broken": Broken(), "talk": Talk()}[kind]
    talks = {"reply": on_and_on, "max_turns": 3} if kind == "talk" else {}
    return Environment(f"eval-{kind}", (), tuple(tasks), reward, **talks)


def other_reward(attempt: Attempt) -> float:
    """For `rung eval rescore --reward`: everything is right."""
    return 1.0
