"""Countdown: reach a target from given numbers with + - * /, each number used once.

    Using each of the numbers 3, 7, 50 exactly once, write an expression that equals 71.   ->   3 * 7 + 50

The score is 1 for a right expression, `partial` for one that can be read but is wrong, 0 for none. Numbers are
drawn first and combined at random; what comes out is the target, so every task has a solution. With
`target=24` it is the game of 24: numbers are drawn until one exists.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

from rung.envs.answers import asker, worked
from rung.envs.environment import Environment
from rung.envs.generated import Problem, example_problem, generated, seeded
from rung.errors import UserError
from rung.rewards.countdown import Countdown

TRIES = 500


def countdown(
    name: str,
    *,
    min_numbers: int = 3,
    max_numbers: int = 4,
    min_value: int = 1,
    max_value: int = 100,
    max_target: int = 1000,
    target: int = 0,
    partial: float = 0.1,
    format: str = "tags",
    seed: int,
    train_size: int | None,
    test_size: int | None,
) -> Environment:
    """`target` 0 means a different one for every task."""
    if not 2 <= min_numbers <= max_numbers <= 6:
        raise UserError(f"{name}: min_numbers={min_numbers} and max_numbers={max_numbers} must lie in 2 to 6")
    if not 1 <= min_value <= max_value:
        raise UserError(f"{name}: min_value={min_value} and max_value={max_value} must be in order, from 1")

    if target and not (1 <= target <= max_target and max_numbers <= 4):
        raise UserError(
            f"{name}: target={target} must lie in 1 to max_target={max_target}, with max_numbers up to 4"
        )

    def make(random_: random.Random) -> Problem:
        for _ in range(TRIES):
            count = random_.randint(min_numbers, max_numbers)
            numbers = [random_.randint(min_value, max_value) for _ in range(count)]
            solution, value = solve(numbers, target) if target else combined(numbers, random_)
            if solution and value.denominator == 1 and 1 <= value <= max_target:
                given = ", ".join(map(str, numbers))
                question = (
                    f"Using each of the numbers {given} exactly once, with + - * / and brackets, "
                    f"write an expression that equals {value}."
                )
                identity = f"{sorted(numbers)} {value}"
                reference = {"numbers": numbers, "target": int(value)}
                return Problem(question, reference, solution, identity=identity)
        raise UserError(f"{name}: {TRIES} deals gave no solvable task; widen the numbers or the target")

    draw, ask = seeded(make), asker(format, name)
    problem = example_problem(draw)
    wrong = " + ".join(map(str, problem.reference["numbers"])) + " + 1"
    environment = Environment(
        name, (), (), Countdown(partial=partial), example=worked(name, problem, format, wrong)
    )
    return generated(environment, draw, ask, seed, train_size, test_size)


Term = tuple[str, Fraction]


def results(a: Term, b: Term) -> list[Term]:
    """Everything two terms can be made into."""
    (left, x), (right, y) = a, b
    made = [(f"({left} {sign} {right})", value) for sign, value in (("+", x + y), ("-", x - y), ("*", x * y))]
    return [*made, (f"({left} / {right})", x / y)] if y else made


def combined(numbers: Sequence[int], random_: random.Random) -> Term:
    """The numbers put together at random; halves and negative numbers are left out, as by a person."""
    terms: list[Term] = [(str(number), Fraction(number)) for number in numbers]
    while len(terms) > 1:
        random_.shuffle(terms)
        a, b = terms.pop(), terms.pop()
        terms.append(random_.choice([t for t in results(a, b) if t[1].denominator == 1 and t[1] >= 0]))
    return without_brackets(terms[0])


def solve(numbers: Sequence[int], target: int) -> Term:
    """The first expression found that uses all numbers and equals the target, or ("", target)."""

    def search(terms: list[Term]) -> Term | None:
        if len(terms) == 1:
            return terms[0] if terms[0][1] == target else None
        for i in range(len(terms)):
            for j in range(len(terms)):
                if i != j:
                    others = [term for k, term in enumerate(terms) if k not in (i, j)]
                    for made in results(terms[i], terms[j]):
                        if found := search([*others, made]):
                            return found
        return None

    found = search([(str(number), Fraction(number)) for number in numbers])
    return without_brackets(found) if found else ("", Fraction(target))


def without_brackets(term: Term) -> Term:
    return term[0][1:-1] if term[0].startswith("(") else term[0], term[1]
