"""Countdown for a model that reads characters: `3 5 8 = 16` asks for an expression, `8+3+5` is one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rung.envs.environment import Environment, Task
from rung.rewards.countdown import evaluate
from rung.rewards.score import Attempt, Score, Verdict

CHARACTERS = "0123456789+- ="
NUMBERS, LARGEST, SIGNS = 3, 9, "+-"


def drawn(index: int, seed: int) -> tuple[list[int], str, int]:
    """Numbers, an expression over all of them, its value: a function of (seed, index)."""
    dice = random.Random(f"{seed} {index}")
    while True:
        numbers = [dice.randint(1, LARGEST) for _ in range(NUMBERS)]
        expression = written(dice, numbers)
        value = evaluate(expression)
        assert value is not None
        if value[0] > 0:
            return numbers, expression, int(value[0])


def written(dice: random.Random, numbers: Sequence[int]) -> str:
    order = dice.sample(list(numbers), len(numbers))
    signs = [dice.choice(SIGNS) for _ in order[1:]]
    return str(order[0]) + "".join(sign + str(n) for sign, n in zip(signs, order[1:], strict=True))


def question(numbers: Sequence[int], target: int) -> str:
    return " ".join(map(str, sorted(numbers))) + f" = {target}"


def corpus(documents: int, right: float, seed: int) -> Iterator[dict[str, list[dict[str, str]]]]:
    """What a model may have read: questions with attempts at them, of which a share is right.

    As messages: a bare prompt and completion would lack the line break that the chat template writes between them,
    and the model would be asked in a form that it has never read.
    """
    dice = random.Random(seed)
    for index in range(documents):
        numbers, expression, target = drawn(index, seed + 1_000_003)
        attempt = expression if dice.random() < right else written(dice, numbers)
        asked = {"role": "user", "content": question(numbers, target)}
        yield {"messages": [asked, {"role": "assistant", "content": attempt}]}


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
        # Held out by the numbers themselves, so that no training task is a test task written otherwise.
        places = itertools.count(index, self.size)
        numbers, _, target = next(
            found for place in places if held_out((found := drawn(place, self.seed))[0]) == self.test
        )
        kind = "test" if self.test else "train"
        return Task(
            f"countdown-small:{kind}:{self.seed}:{index}",
            ({"role": "user", "content": question(numbers, target)},),
            {"numbers": numbers, "target": target},
        )


def held_out(numbers: Sequence[int]) -> bool:
    return sum((i + 1) * n for i, n in enumerate(sorted(numbers))) % 5 == 0


def right(attempt: Attempt) -> Verdict:
    """1 for an expression over exactly these numbers that comes to the target, else 0."""
    found = evaluate(attempt.answer)
    if found is None:
        return Score(0.0, {"reads": 0.0})
    value, used = found
    good = sorted(used) == sorted(attempt.reference["numbers"]) and value == attempt.reference["target"]
    return Score(float(good), {"reads": 1.0})


right.trusted = True  # type: ignore[attr-defined]  # quick and pure: it may run in the trainer's own process


def environment() -> Environment:
    return Environment("countdown-small", Tasks(20_000, 1, False), Tasks(500, 2, True), right)
