"""A guessing game: the simplest world that answers. The model names a number, the world says higher or lower.

    I think of a whole number from 301 to 332. You have 6 guesses ...      Guess: 316
    Higher.                                                                Guess: 324
    Lower.                                                                 Guess: 318     (it was 318)

The score is 1 for finding it. Halving the range always does within the guesses given, so what is learned is
to listen. The range is the question; the number itself stands in the reference and the model never sees it.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import ClassVar

from rung.envs.environment import Environment, Messages, Task, Worked
from rung.envs.generated import Problem, example_problem, generated, put, seeded
from rung.envs.play import model_turns
from rung.errors import UserError
from rung.rewards.score import Attempt, Score, Verdict


def guess(
    name: str, *, numbers: int = 32, seed: int, train_size: int | None, test_size: int | None
) -> Environment:
    """`numbers` is how many the range holds."""
    if numbers < 2:
        raise UserError(f"{name}: numbers={numbers} leaves nothing to guess; give at least 2")
    turns = numbers.bit_length()  # halving n numbers takes at most floor(log2 n) + 1 guesses

    def make(random_: random.Random) -> Problem:
        low = random_.randint(1, 10_000)
        high = low + numbers - 1
        question = (
            f"I think of a whole number from {low} to {high}. You have {turns} guesses. "
            'Write one guess on the last line, as in "Guess: 7". I will say higher or lower.'
        )
        secret = random_.randint(low, high)
        return Problem(question, {"low": low, "high": high, "secret": secret}, str(secret))

    draw = seeded(make)
    problem = example_problem(draw, lambda found: found.reference["secret"] != middle(found.reference))
    task = put(problem, f"{name}:example", ask)
    right, wrong = (tuple(halving(task, turns)), (f"Guess: {task.reference['low'] - 1}",) * turns)
    environment = Environment(
        name, (), (), Found(), reply=reply, max_turns=turns, example=Worked(task, right, wrong)
    )
    return generated(environment, draw, ask, seed, train_size, test_size)


def ask(problem: Problem) -> Messages:
    return [{"role": "user", "content": problem.question}]


def guessed(text: str) -> int | None:
    """The number behind the last "Guess:"; several on one line are none, so that a list wins nothing."""
    found = re.findall(r"guess:([^\n]*)", text, re.IGNORECASE)
    numbers = re.findall(r"-?\d+", found[-1]) if found else []
    return int(numbers[0]) if len(numbers) == 1 and len(numbers[0]) < 20 else None


def reply(task: Task, messages: Messages) -> Messages | None:
    number, secret = guessed(messages[-1]["content"]), task.reference["secret"]
    if number == secret:
        return None
    if number is None:
        text = 'I saw no guess. Write one number, as in "Guess: 7".'
    else:
        text = "Higher." if secret > number else "Lower."
    return [{"role": "user", "content": text}]


@dataclass(frozen=True)
class Found:
    """1 for finding the number; the parts say in how many guesses, and which share of turns held one."""

    trusted: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        turns = model_turns(attempt.messages)
        found = guessed(attempt.answer) == attempt.reference["secret"]
        read = sum(guessed(turn) is not None for turn in turns) / max(len(turns), 1)
        return Score(float(found), {"guesses": float(len(turns)), "answered": read})


def middle(reference: dict[str, int]) -> int:
    return (reference["low"] + reference["high"]) // 2


def halving(task: Task, turns: int) -> list[str]:
    """What a player says who always takes the middle."""
    low, high, said = task.reference["low"], task.reference["high"], []
    for _ in range(turns):
        number = (low + high) // 2
        said.append(f"Guess: {number}")
        if number < task.reference["secret"]:
            low = number + 1
        elif number > task.reference["secret"]:
            high = number - 1
        else:
            break
    return said
