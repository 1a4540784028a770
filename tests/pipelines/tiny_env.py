"""Environments for a tiny byte model: `tiny_env.py:make?kind=...`. What is graded are token ids, known at once."""

import ctypes
import math
import os
import time
from dataclasses import dataclass
from typing import Any

from rung.envs.environment import Environment, Task
from rung.rewards.score import Abstain, Attempt, Score


@dataclass(frozen=True)
class Even:
    """Share of even token ids: something every answer has a different amount of."""

    trusted = True

    def __call__(self, attempt: Attempt) -> Score:
        share = sum(token % 2 == 0 for token in attempt.token_ids) / len(attempt.token_ids)
        return Score(share, {"even": share})


@dataclass(frozen=True)
class Constant:
    value: float = 0.5
    trusted = True

    def __call__(self, attempt: Attempt) -> Score:
        return Score(self.value)


@dataclass(frozen=True)
class SometimesEqual:
    """Every second task pays all answers alike."""

    trusted = True

    def __call__(self, attempt: Attempt) -> Score:
        return Score(0.0) if attempt.reference % 2 else Even()(attempt)


@dataclass(frozen=True)
class Unsure:
    """Abstains on answers whose first token is odd."""

    trusted = True

    def __call__(self, attempt: Attempt) -> Score | Abstain:
        return Abstain("odd") if attempt.token_ids[0] % 2 else Even()(attempt)


@dataclass(frozen=True)
class Hostile:
    """What a reward does depends on the answer's first token, so that it is known which attempts must fail."""

    note: str = ""  # where forked children leave their process ids

    def __call__(self, attempt: Attempt) -> Any:
        deed = deed_of(attempt.token_ids)
        if deed == "spin":
            while True:
                pass
        if deed == "sleep":
            time.sleep(3600)
        if deed == "raise":
            raise RuntimeError("no verdict from me")
        if deed == "none":
            return None
        if deed == "nan":
            return math.nan
        if deed == "segfault":
            ctypes.string_at(0)
        if deed == "exit":
            os._exit(0)
        if deed == "fork":
            child = os.fork()
            if child == 0:
                os.setsid()
                time.sleep(3600)
            with open(self.note, "a") as file:
                file.write(f"{child}\n")
        return Even()(attempt)


DEEDS = ("spin", "sleep", "raise", "none", "nan", "segfault", "exit", "fork")


def deed_of(token_ids) -> str:
    """One answer in four misbehaves."""
    first = token_ids[0]
    return DEEDS[first // 4 % len(DEEDS)] if first % 4 == 0 else ""


@dataclass(frozen=True)
class Broken:
    def __call__(self, attempt: Attempt) -> Score:
        raise RuntimeError("this grader is broken")


def says_back(task: Task, messages) -> list[dict[str, str]]:
    """The world's turn: as long as the conversation, so that every turn is another."""
    return [{"role": "user", "content": f"turn {len(messages)}: {'go ' * (len(messages) % 3)}on"}]


REWARDS = {
    "even": Even(), "equal": Constant(), "sometimes": SometimesEqual(), "unsure": Unsure(), "broken": Broken(),
    "long": Even(), "talk": Even(),
}  # fmt: skip


def make(
    kind: str = "even",
    note: str = "",
    turns: int = 3,
    *,
    seed: int = 0,
    train_size: int = 24,
    test_size: int = 6,
) -> Environment:
    tasks = tuple(task(kind, index) for index in range(min(train_size, 24) + test_size))
    return Environment(
        f"tiny-{kind}",
        tasks[test_size:],
        tasks[:test_size],
        Hostile(note) if kind == "hostile" else REWARDS[kind],
        reply=says_back if kind == "talk" else None,
        max_turns=turns if kind == "talk" else 1,
    )


def task(kind: str, index: int) -> Task:
    """Prompts of many lengths."""
    words = "ab" * (150 if kind == "long" else index * 5 % 23)
    return Task(f"tiny-{kind}:{index}", ({"role": "user", "content": f"say {words}"},), reference=index)
