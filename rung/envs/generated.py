"""Tasks that are made, not read: task i is a pure function of the seed and i, made when it is asked for.

Whether a question belongs to the test set is decided by the question itself: a quarter of all texts, by
their SHA-256, are held out. So no training task of any seed, size or run is a test task of another, without
any list of what was drawn, and the test set is the same whatever the training seed is. A draw that falls on
the wrong side is drawn again. Test tasks are distinct; training tasks of a small space repeat.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from rung.envs.environment import Environment, Task
from rung.envs.sequences import Tasks
from rung.errors import UserError

TRAIN_SIZE, TEST_SIZE = 10_000, 200  # training tasks cost nothing until they are asked for
REDRAWS = 64  # a draw is held out one time in four, so so many in a row mean that nothing else exists


@dataclass(frozen=True)
class Problem:
    """A question before it is put to a model, with what grades its answer and one answer known to be right."""

    question: str
    reference: Any
    solution: str | None
    extra: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""  # the same for questions that differ in form only; the question itself if empty


Draw = Callable[[str, int], Problem]  # (stream, index): a pure function of both
Ask = Callable[[Problem], Sequence[Mapping[str, Any]]]


def seeded(make: Callable[[random.Random], Problem]) -> Draw:
    """A draw from a generator of numbers that is fresh for every (stream, index)."""
    return lambda stream, index: make(random.Random(f"{stream}/{index}"))


def identity(problem: Problem) -> str:
    """Spacing and case do not make another question."""
    return " ".join((problem.identity or problem.question).lower().split())


def held_out(problem: Problem) -> bool:
    """One in four, by what is asked alone."""
    return hashlib.sha256(identity(problem).encode()).digest()[0] < 64


@dataclass(frozen=True)
class Generated(Tasks):
    """Training tasks, made when they are asked for."""

    name: str
    draw: Draw
    ask: Ask
    seed: int
    size: int

    def __len__(self) -> int:
        return self.size

    def task(self, index: int) -> Task:
        for again in range(REDRAWS):
            problem = self.draw(f"train/{self.seed}/{again}", index)
            if not held_out(problem):
                return put(problem, f"{self.name}:train:{self.seed}:{index}", self.ask)
        raise UserError(
            f"{self.name}: {REDRAWS} draws gave only questions that are held out for the test, so there are too "
            "few different ones; widen the options of the generator"
        )


@dataclass(frozen=True)
class HeldOut(Tasks):
    """Distinct test tasks, all made at the first look; fewer than asked for where no more exist."""

    name: str
    draw: Draw
    ask: Ask
    size: int

    @cached_property
    def tasks(self) -> list[Task]:
        seen: set[str] = set()
        tasks: list[Task] = []
        for number in range(16 * self.size + REDRAWS):
            if len(tasks) == self.size:
                break
            problem = self.draw("test", number)
            if held_out(problem) and identity(problem) not in seen:
                seen.add(identity(problem))
                tasks.append(put(problem, f"{self.name}:test:{number}", self.ask))
        return tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def task(self, index: int) -> Task:
        return self.tasks[index]


def put(problem: Problem, key: str, ask: Ask) -> Task:
    return Task(key, tuple(ask(problem)), problem.reference, problem.extra)


def example_problem(draw: Draw, accept: Callable[[Problem], bool] = lambda _: True) -> Problem:
    """The first of its own stream that `accept` likes; it is neither drawn for training nor for the test."""
    return next((p for number in range(REDRAWS) if accept(p := draw("example", number))), draw("example", 0))


def generated(
    environment: Environment, draw: Draw, ask: Ask, seed: int, train_size: int | None, test_size: int | None
) -> Environment:
    """The environment with its tasks: the same grade, the draws of a generator."""
    return replace(
        environment,
        train=Generated(
            environment.name, draw, ask, seed, train_size if train_size is not None else TRAIN_SIZE
        ),
        test=HeldOut(environment.name, draw, ask, test_size if test_size is not None else TEST_SIZE),
    )
