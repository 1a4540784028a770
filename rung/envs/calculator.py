"""Exact arithmetic on a line of text: numbers, + - * / // % **, brackets, and nothing else.

The text is parsed, never run, and everything that can grow is bounded: the length, the exponent, the size of
the result. Numbers are fractions, so 0.1 + 0.2 is 0.3 and 1/3*3 is 1.
"""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction

LONGEST = 200  # characters
LARGEST = 10**60  # of any numerator or denominator on the way
SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**"})
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class NotArithmetic(ValueError):
    """Says why a text has no value."""


def evaluate(text: str) -> Fraction:
    """The exact value of an arithmetic expression, or NotArithmetic."""
    if len(text) > LONGEST:
        raise NotArithmetic(f"longer than {LONGEST} characters")
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.strip()).translate(SIGNS)
    if odd := re.search(r"[^\d\s.+\-*/%()]", plain, re.ASCII):
        raise NotArithmetic(f"{odd.group()!r} is not arithmetic")
    try:
        tree = ast.parse(plain, mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as error:  # what the parser raises on odd text
        raise NotArithmetic("not a complete expression") from error
    return value_of(tree.body, plain)


def value_of(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()):  # an ellipsis is a constant too
            value = Fraction(text[node.col_offset : node.end_col_offset])
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            value = value_of(inner, text)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            value = -value_of(inner, text)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            value = power(value_of(left, text), value_of(right, text))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            a, b = value_of(left, text), value_of(right, text)
            if b == 0 and not isinstance(op, ast.Add | ast.Sub | ast.Mult):
                raise NotArithmetic("division by zero")
            value = Fraction(OPERATORS[type(op)](a, b))
        case _:
            raise NotArithmetic(f"{ast.unparse(node)[:40]!r} is not arithmetic")
    if max(abs(value.numerator), value.denominator) > LARGEST:
        raise NotArithmetic("the result is too large")
    return value


def power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > 200:
        raise NotArithmetic("an exponent must be a whole number up to 200")
    if base == 0 and exponent < 0:
        raise NotArithmetic("division by zero")
    return base ** int(exponent)


def shown(value: Fraction) -> str:
    """A whole number, a short exact decimal, or a fraction with its decimal beside it."""
    if value.denominator == 1:
        return str(value.numerator)
    for places in range(1, 13):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
            return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    return f"{value} (about {float(value):.10g})"
