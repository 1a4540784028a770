"""The boundary where a reward is called: whatever it returns or raises becomes a Verdict.

A number is a Score. Nothing else is guessed: None, NaN, a string or a list where a number should be is a
Failure of kind "invalid", an exception one of kind "exception" or "memory". None of them is ever a zero.
"""

from __future__ import annotations

import math
import numbers
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rung.rewards.score import Abstain, Attempt, Failure, Score, Verdict

LONGEST_DETAIL = 1000
KINDS = ("timeout", "memory", "crash", "exception", "invalid")


def judge(reward: Callable[[Attempt], Any], attempt: Attempt) -> Verdict:
    """One attempt through one reward."""
    try:
        return as_verdict(reward(attempt))
    except (Exception, SystemExit) as error:  # user code: the boundary
        return failure_of(error)


def judge_all(reward: Callable[[Attempt], Any], attempts: Sequence[Attempt]) -> list[Verdict]:
    """Many attempts, in one call where the reward offers `many(attempts)`; if that fails, one at a time."""
    many = getattr(reward, "many", None)
    if many is not None and len(attempts) > 1:
        try:
            values = list(many(attempts))
            if len(values) == len(attempts):
                return [as_verdict(value) for value in values]
        except (Exception, SystemExit):
            pass  # the calls below tell whose fault it was
    return [judge(reward, attempt) for attempt in attempts]


def failure_of(error: BaseException) -> Failure:
    if isinstance(error, MemoryError):
        return Failure("memory", "the reward ran out of memory")
    place = traceback.extract_tb(error.__traceback__)
    where = f" ({place[-1].filename}:{place[-1].lineno})" if place else ""
    return Failure("exception", f"{type(error).__name__}: {error}"[:LONGEST_DETAIL] + where)


def as_verdict(value: Any) -> Verdict:
    """A verdict of plain numbers, fit to be logged and sent to another process."""
    if isinstance(value, Abstain):
        return Abstain(str(value.reason))
    if isinstance(value, Failure):
        kind = value.kind if value.kind in KINDS else "exception"
        return Failure(kind, str(value.detail))
    if isinstance(value, Score):
        named = {str(name): as_number(part) for name, part in value.parts.items()}
        number = as_number(value.value)
        bad = [part for part in (number, *named.values()) if isinstance(part, str)]
        if bad or isinstance(number, str):
            return Failure("invalid", f"the reward returned a score of {bad[0]}")
        return Score(number, {name: part for name, part in named.items() if isinstance(part, float)})
    number = as_number(value)
    return Failure("invalid", f"the reward returned {number}") if isinstance(number, str) else Score(number)


def as_number(value: Any) -> float | str:
    """A finite float, or the description of what stood in its place."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # a scalar of numpy or torch
    if value is None:
        return "None; return a number, or Abstain(reason) where the reward cannot tell"
    if not isinstance(value, numbers.Real):
        return f"{type(value).__name__} {str(value)[:100]!r}, which is no number"
    try:
        number = float(value)
    except OverflowError:
        return "a number beyond every float"
    return number if math.isfinite(number) else f"{number}, which is not finite"


def is_trusted(reward: Any) -> bool:
    """Whether it declares that it always ends, soon and in little memory, so that it needs no process."""
    return bool(getattr(reward, "trusted", False))


def with_parts(value: float, parts: Mapping[str, float]) -> Verdict:
    """A Score with the parts that are numbers; what else a user's dictionary holds is dropped."""
    return as_verdict(Score(value, {k: v for k, v in parts.items() if isinstance(as_number(v), float)}))
