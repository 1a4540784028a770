"""Regression with spurious features: a rule that one column follows exactly, beside columns that only look as if.

    Mira: study 3, sleep 7, stress 17: grade 41 ... Ivo: study 6, sleep 8, stress 8 ... Which grade has Ivo?   ->   53

One of the tasks on which more thinking can make models worse (arXiv 2507.14417). The grade is a + b times the hours
of study, and nothing else. In the examples stress falls as study grows, almost in step, and in the row that is asked
about it is 6 off that; sleep is noise, and plausible. Changed from the paper, where grades are real data and scored by
their RMSE: the rows determine the one linear rule of all columns (their matrix has full rank), so the answer is exact.
"""

from __future__ import annotations

import random

import numpy as np

from rung.envs.answers import asker, worked
from rung.envs.environment import Environment
from rung.envs.generated import Problem, example_problem, generated, seeded
from rung.errors import UserError
from rung.rewards.numeric import Numeric

NAMES = "Mira Ivo Tessa Orla Jonas Petra Silas Nadia Hugo Lena Bruno Vera Anton Greta Felix Iris"
MOST = 20  # hours of study, and stress


def regression(
    name: str,
    *,
    rows: int = 6,
    format: str = "plain",
    seed: int,
    train_size: int | None,
    test_size: int | None,
) -> Environment:
    """`rows` are the students whose grade is told, 5 to 15; with fewer other rules would fit as well."""
    if not 5 <= rows <= 15:
        raise UserError(f"{name}: rows={rows} is not between 5 and 15")

    def make(random_: random.Random) -> Problem:
        base, slope = random_.randint(10, 40), random_.randint(3, 6)
        while True:
            *studies, study = random_.sample(range(MOST + 1), rows + 1)
            told = [(each, random_.randint(4, 10), stress(random_, each)) for each in studies]
            if np.linalg.matrix_rank(np.array([[1, *features] for features in told])) == 4:
                break
        trend = MOST - study
        asked = (study, random_.randint(4, 10), trend + 6 if trend < MOST / 2 else trend - 6)
        students = random_.sample(NAMES.split(), rows + 1)
        lines = [
            f"{line(who, each)}: grade {base + slope * each[0]}"
            for who, each in zip(students, told, strict=False)
        ]
        answer = str(base + slope * study)
        head = f"Hours of study a week and of sleep a night, stress from 0 to {MOST}, and the grade:"
        question = "\n".join([head, "", *lines, line(students[-1], asked)])
        question += f"\n\nThe grade follows one rule without exception. Which grade does {students[-1]} have?"
        return Problem(question, answer, answer, {"rows": rows})

    draw, ask = seeded(make), asker(format, name)
    problem = example_problem(draw)
    wrong = str(int(problem.reference) + 1)
    environment = Environment(name, (), (), Numeric(), example=worked(name, problem, format, wrong))
    return generated(environment, draw, ask, seed, train_size, test_size)


def stress(random_: random.Random, study: int) -> int:
    """Low where much is studied, to within one."""
    return min(MOST, max(0, MOST - study + random_.randint(-1, 1)))


def line(who: str, features: tuple[int, int, int]) -> str:
    study, sleep, stress = features
    return f"{who}: study {study}, sleep {sleep}, stress {stress}"
