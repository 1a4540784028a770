"""Countdown: an expression over the given numbers, each used once, that comes to the target.

Numbers and target stand in the reference, or in the task's further columns, as {"numbers": [3, 5, 8],
"target": 16}. Example: "<answer>(3 + 5) + 8</answer>" is right; "2 * 8" uses a number that was not given.
The expression is read as a syntax tree and computed in exact fractions; nothing is ever evaluated as Python.
"""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from rung.rewards.extract import final_answer
from rung.rewards.score import Attempt, Failure, Score, Verdict

LONGEST = 300  # characters; keeps the parser's depth and the fractions small
SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "\u2212": "-", "[": "(", "]": ")"})
OPERATIONS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def evaluate(expression: str) -> tuple[Fraction, list[int]] | None:
    """The value and the numbers used, or None where it is no expression over + - * / and whole numbers."""
    text = expression.translate(SIGNS).replace(r"\times", "*").replace(r"\cdot", "*").replace(r"\div", "/")
    if len(text) > LONGEST or not re.fullmatch(r"[\d\s()+*/-]+", text, re.ASCII):
        return None
    used: list[int] = []
    try:
        return _walk(ast.parse(text.strip(), mode="eval").body, used), used
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _walk(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_walk(node.operand, used)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](_walk(node.left, used), _walk(node.right, used))
    raise ValueError(f"{type(node).__name__} does not belong in an expression")


@dataclass(frozen=True)
class Countdown:
    """1 if right, else `partial` for an expression that can be read, else 0. Parts: `reads`, `numbers`, `value`.

    With `every` False numbers may be left over. "expression = target" is read as its left side, if the right
    side says the target.
    """

    every: bool = True
    partial: float = 0.0
    trusted: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        source = attempt.reference if isinstance(attempt.reference, Mapping) else attempt.extra
        try:
            numbers, target = Counter(int(n) for n in source["numbers"]), Fraction(str(source["target"]))
        except (KeyError, TypeError, ValueError) as error:
            return Failure("invalid", f'the task has no {{"numbers": [...], "target": ...}}: {error!r}')
        left, equals, stated = final_answer(attempt.answer).strip("$ .").partition("=")
        found = evaluate(left)
        if found is None or (equals and stated.strip() != str(target)):
            return Score(0.0, {"reads": 0.0, "numbers": 0.0, "value": 0.0})
        used = Counter(found[1])
        allowed = used == numbers if self.every else used <= numbers
        reached = found[0] == target
        parts = {"reads": 1.0, "numbers": float(allowed), "value": float(reached)}
        return Score(1.0 if allowed and reached else self.partial, parts)
