"""Two numbers, one operation: the smallest task that a model can be right or wrong about.

What is 47 + 5?   ->   52
"""

from __future__ import annotations

import random

from rung.envs.answers import asker, worked
from rung.envs.environment import Environment
from rung.envs.generated import Problem, example_problem, generated, seeded
from rung.errors import UserError
from rung.rewards.numeric import Numeric

OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def arithmetic(
    name: str,
    *,
    operations: str = "+*",
    digits: int = 2,
    format: str = "plain",
    seed: int,
    train_size: int | None,
    test_size: int | None,
) -> Environment:
    """Sums, differences and products of two numbers of up to `digits` digits."""
    if not operations or set(operations) - OPERATIONS.keys():
        raise UserError(f"{name}: operations={operations!r} is not made of + - *; write for example +*")
    if not 1 <= digits <= 18:
        raise UserError(f"{name}: digits={digits} is not between 1 and 18")

    def make(random_: random.Random) -> Problem:
        a, b = (random_.randrange(10 ** random_.randint(1, digits)) for _ in range(2))
        sign = random_.choice(operations)
        answer = str(OPERATIONS[sign](a, b))
        low, high = (a, b) if sign == "-" else sorted((a, b))  # 3 + 5 is not held out where 5 + 3 is trained
        return Problem(f"What is {a} {sign} {b}?", answer, answer, identity=f"{low} {sign} {high}")

    draw, ask = seeded(make), asker(format, name)
    problem = example_problem(draw)
    wrong = str(int(problem.reference) + 1)
    environment = Environment(name, (), (), Numeric(), example=worked(name, problem, format, wrong))
    return generated(environment, draw, ask, seed, train_size, test_size)
