"""Which tasks are worth training on, from recorded results: those neither always nor never solved.

A task solved at rate p teaches a group of n rollouts with probability 1 - p^n - (1 - p)^n, the chance that they
differ. Of a few attempts the rate is hardly known: 0 of 4 is what a task of rate 0.2 shows four times in ten. So
a task is dropped only when its results say that its rate lies outside [low, high]: when the whole Wilson
interval of its rate does. A task never tried is kept. With many attempts this becomes the plain rule; with
`confident=False` it is the plain rule from the start, successes / attempts in [low, high].

All is a pure function of the counts: no state, no randomness.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rung.envs.environment import Task
from rung.errors import UserError


@dataclass(frozen=True)
class Results:
    """What is known of a task: how often it was solved in how many attempts."""

    successes: int = 0
    attempts: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.attempts:
            raise ValueError(f"{self.successes} successes in {self.attempts} attempts cannot be")


def counted(outcomes: Iterable[tuple[str, bool]]) -> dict[str, Results]:
    """Results by task key from (task key, solved) pairs. Attempts without a score do not belong in here."""
    counts: dict[str, Results] = {}
    for key, solved in outcomes:
        before = counts.get(key, Results())
        counts[key] = Results(before.successes + bool(solved), before.attempts + 1)
    return counts


def worth_training(
    results: Results, low: float = 0.1, high: float = 0.9, z: float = 1.0, confident: bool = True
) -> bool:
    """`z` is how sure one must be to drop a task: 1.0 is a 68 % interval, 1.96 a 95 % one."""
    if not 0 <= low <= high <= 1:
        raise UserError(f"a range of pass rates from {low} to {high} is none; write 0 <= low <= high <= 1")
    if results.attempts == 0:
        return True
    if not confident:
        return low <= results.successes / results.attempts <= high
    least, most = interval(results, z)
    return most >= low and least <= high


def interval(results: Results, z: float) -> tuple[float, float]:
    """Wilson's interval of a rate."""
    n, p = results.attempts, results.successes / results.attempts
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def selected(
    tasks: Sequence[Task],
    results: Mapping[str, Results],
    low: float = 0.1,
    high: float = 0.9,
    z: float = 1.0,
    confident: bool = True,
) -> list[int]:
    """The indices of the tasks worth training on, in order. None left is an error."""
    untried = Results()
    kept = [
        i
        for i, task in enumerate(tasks)
        if worth_training(results.get(task.key, untried), low, high, z, confident)
    ]
    if not kept and len(tasks):
        raise UserError(
            f"no task has a pass rate in {low} to {high}: of {len(tasks)} tasks all are too easy or too hard for "
            "this model; widen the range or change the tasks"
        )
    return kept


def chance_of_signal(rate: float, group: int) -> float:
    """The probability that `group` rollouts of a task of this rate do not all end alike."""
    return 1 - rate**group - (1 - rate) ** group
