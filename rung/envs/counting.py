"""Counting with distractors: a question a child answers, among numbers that have nothing to do with it.

    Mira has 2 apples and 3 pears. There is a chance of 61 % that ... How many fruits does Mira have?   ->   5

One of the tasks on which more thinking can make models worse (inverse scaling in test-time compute, arXiv
2507.14417): the truth is one small sum, and what thinking finds to do is the distractors. `distractors=0` is the
control. All sentences are our own; each is true whatever the count is.
"""

from __future__ import annotations

import random

from rung.envs.answers import asker, worked
from rung.envs.environment import Environment
from rung.envs.generated import Problem, example_problem, generated, seeded
from rung.errors import UserError
from rung.rewards.numeric import Numeric

NAMES = "Mira Ivo Tessa Orla Jonas Petra Silas Nadia Hugo Lena Bruno Vera"
KINDS = {
    "fruits": ["apple", "pear", "plum", "peach", "lemon"],
    "animals": ["cat", "dog", "goat", "horse", "duck"],
    "tools": ["hammer", "saw", "drill", "file", "chisel"],
    "instruments": ["flute", "drum", "violin", "harp", "trumpet"],
}


def counting(
    name: str,
    *,
    distractors: int = 3,
    format: str = "plain",
    seed: int,
    train_size: int | None,
    test_size: int | None,
) -> Environment:
    """`distractors` are the sentences or programs between the facts and the question, 0 to 12."""
    if not 0 <= distractors <= 12:
        raise UserError(f"{name}: distractors={distractors} is not between 0 and 12")

    def make(random_: random.Random) -> Problem:
        who, friend = random_.sample(NAMES.split(), 2)
        kind, things = random_.choice(list(KINDS.items()))
        counts = {thing: random_.randint(1, 6) for thing in random_.sample(things, random_.randint(2, 3))}
        facts = f"{who} has {listed(counts)}."
        asked = f"How many {kind} does {who} have?"
        between = [distract(random_, who, friend, kind) for _ in range(distractors)]
        answer = str(sum(counts.values()))
        question = "\n\n".join(["\n".join([facts, *between]), asked])
        return Problem(question, answer, answer, {"distractors": distractors}, identity=f"{facts} {asked}")

    draw, ask = seeded(make), asker(format, name)
    problem = example_problem(draw)
    wrong = str(int(problem.reference) + 1)
    environment = Environment(name, (), (), Numeric(), example=worked(name, problem, format, wrong))
    return generated(environment, draw, ask, seed, train_size, test_size)


def listed(counts: dict[str, int]) -> str:
    parts = [f"{'a' if n == 1 else n} {thing}{'s' if n > 1 else ''}" for thing, n in counts.items()]
    return f"{', '.join(parts[:-1])} and {parts[-1]}".replace("peachs", "peaches")


def distract(random_: random.Random, who: str, friend: str, kind: str) -> str:
    """Mathematics or a program that looks as if it mattered and changes no count."""
    a, b, c = (random_.randint(2, 97) for _ in range(3))
    return random_.choice(
        [
            f"{friend} guesses that with a probability of {a} % one of the {kind} is older than {b} days.",
            f"{friend} owned {a} {kind} once, and gave every one of them away {b} years ago.",
            f"The street in which {who} lives has {a} houses with {b} windows each, and {c} trees.",
            f"To pass the time {friend} works out {a} * {b} + {c} and divides what comes out by {1 + a % 9}.",
            f"{friend} would pay {a} coins for each of the {kind}, or {b} for {c} of them, but none is for sale.",
            f"{friend} has written this program, which nobody ran:\n"
            f"```python\n{kind} = {a}\nfor day in range({b}):\n    {kind} += day % {2 + c % 7}\nprint({kind})\n```",
        ]
    )
