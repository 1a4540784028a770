"""Countdown for a model that reads numbers and a few words, hard enough that searching pays: `3 5 8 = 7`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from rung.envs.countdown_traces import BEHAVIOURS, branches, reachable, trace
from rung.envs.environment import Environment, Task
from rung.errors import UserError
from rung.rewards.countdown import evaluate
from rung.rewards.score import Attempt, Score, Verdict

Row = dict[str, list[dict[str, str]]]
NUMBERS, LARGEST, SIGNS = 3, 9, "+-*"
CHARACTERS = "0123456789+-*/()=.,: "
WORDS = (
    "make ",
    "first get ",
    " from ",
    "yes",
    "not ",
    "no",
    "check ",
    "answer ",
    "try again.",
    "back.",
    "sums",
)
PHRASES = (*WORDS, *map(str, range(10, 100)))  # a token each, as a number of two digits is


def drawn(index: int, seed: int) -> tuple[list[int], int]:
    """Numbers and a target they can be made into, as a function of (seed, index)."""
    dice = random.Random(f"{seed} {index}")
    while True:
        numbers = [dice.randint(1, LARGEST) for _ in range(NUMBERS)]
        target = int(dice.choice(sorted(reachable(numbers, SIGNS))))
        if 0 < target <= 81 and solvable(numbers, target):
            return numbers, target


def solvable(numbers: Sequence[int], target: int) -> bool:
    """By a last number that is added, taken away or multiplied with: the form of the traces."""
    return any(b.needed in reachable(b.rest, SIGNS) for b in branches(numbers, target, SIGNS))


def question(numbers: Sequence[int], target: int) -> str:
    return " ".join(map(str, sorted(numbers))) + f" = {target}"


def held_out(numbers: Sequence[int]) -> bool:
    return sum((i + 1) * n for i, n in enumerate(sorted(numbers))) % 5 == 0


def of_kind(index: int, seed: int, size: int, test: bool) -> tuple[list[int], int]:
    """Held out by the numbers themselves, so that no training task is a test task written otherwise."""
    places = itertools.count(index, size)
    return next(found for place in places if held_out((found := drawn(place, seed))[0]) == test)


def corpus(documents: int, right: float, seed: int) -> Iterator[Row]:
    """What a model may have read: sums, and questions with bare answers, of which a share is right."""
    dice = random.Random(seed)
    for index in range(documents):
        numbers, target = of_kind(index, seed + 1_000_003, documents, False)
        made = reachable(numbers, SIGNS)
        answer = made[Fraction(target) if dice.random() < right else dice.choice(sorted(made))].text
        yield chat(question(numbers, target), f"answer {answer}")
        yield chat("sums", ", ".join(one_sum(dice) for _ in range(6)))


def chat(asked: str, answered: str) -> Row:
    """As the environment asks: a bare prompt and completion would lack the template's line break between them."""
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}


def one_sum(dice: random.Random) -> str:
    a, b, sign = dice.randint(1, 81), dice.randint(1, LARGEST), dice.choice("++--**//")
    if sign == "-":
        return f"{max(a, b)}-{min(a, b)}={abs(a - b)}"
    a = dice.randint(1, 81 // b) if sign in "*/" else a  # every product that a target can need
    return f"{a * b}/{b}={a}" if sign == "/" else f"{a}{sign}{b}={a + b if sign == '+' else a * b}"


def priming(rows: int, seed: int, show: Collection[str] = BEHAVIOURS, right: bool = True) -> list[Row]:
    """Training tasks with traces that show these behaviours."""
    found: list[Row] = []
    for index in itertools.count():
        numbers, target = of_kind(index, seed + 2_000_003, 1 << 30, False)
        try:
            text = trace(
                numbers, target, random.Random(f"{seed} {index}"), show=show, right=right, signs=SIGNS
            )
        except UserError:  # every branch succeeds: no trace of a wrong answer
            continue
        found.append(chat(question(numbers, target), text))
        if len(found) == rows:
            return found
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class Tasks(Sequence):
    size: int
    seed: int
    test: bool

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[place] for place in range(self.size)[index]]
        if not 0 <= index < self.size:
            raise IndexError(index)
        numbers, target = of_kind(index, self.seed, self.size, self.test)
        kind = "test" if self.test else "train"
        return Task(
            f"countdown-search:{kind}:{self.seed}:{index}",
            ({"role": "user", "content": question(numbers, target)},),
            {"numbers": numbers, "target": target},
        )


def right(attempt: Attempt) -> Verdict:
    """1 if what stands behind the last `answer` uses exactly these numbers and comes to the target, else 0."""
    found = evaluate(attempt.answer.rpartition("answer ")[2])
    if found is None:
        return Score(0.0, {"reads": 0.0})
    value, used = found
    good = sorted(used) == sorted(attempt.reference["numbers"]) and value == attempt.reference["target"]
    return Score(float(good), {"reads": 1.0})


right.trusted = True  # type: ignore[attr-defined]  # quick and pure: it may run in the trainer's own process


def environment() -> Environment:
    return Environment("countdown-search", Tasks(20_000, 1, False), Tasks(500, 2, True), right)
