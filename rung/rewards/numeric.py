"""Is the answer the right number? Compared as exact fractions, so 0.1 is one tenth and 1/3 is not 0.333.

Read are 1,234,567 and 1 234 567 (groups of three), decimals, 6.02e23, a/b, 1 1/2, \\frac{a}{b}, currency signs,
a unit around the number, and the Unicode minus. `50%` matches 0.5 and also 50, unless both sides are per cent.

An answer the model pointed out must hold one number: "3 or 4" is wrong whichever is right. Where nothing was
pointed out the last number counts, as is the custom with GSM8K.
"""

from __future__ import annotations

import math
import numbers
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from rung.rewards.extract import last_number, marked_answer, without_thinking
from rung.rewards.score import Attempt, Failure, Score, Verdict

LONGEST = 200  # characters of a marked answer, or digits of a number; beyond it nobody meant a number
MINUS = str.maketrans(
    {"\u2212": "-", "\uff0d": "-", "\u2013": "-", "\u00a0": " ", "\u2009": " ", "\u202f": " "}
)
PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:[ _]\d{3})+|\d+)(?:\.\d*)?|\.\d+"
VALUE = re.compile(
    rf"(?<![\w.])(?<!\d,)(?P<sign>[-+]?)\s?[$€£¥]?\s?(?P<sign2>-?)(?:"
    rf"(?:(?P<whole>\d+)\s*)?\\[dt]?frac\{{(?P<latex_top>-?\d+)\}}\{{(?P<latex_bottom>-?\d+)\}}"
    rf"|(?:(?P<mixed>\d+)\s+)?(?P<top>\d+)\s?/\s?(?P<bottom>\d+)"
    rf"|(?P<plain>{PLAIN})(?:[eE](?P<exponent>[-+]?\d{{1,3}})(?!\w))?(?![.,]?\d)"
    rf")\s*(?P<percent>\\?%)?"
)


@dataclass(frozen=True)
class Number:
    value: Fraction
    percent: bool = False  # 50% is held as one half


def read_number(text: str) -> Number | None:
    """The one number of a text, or None where there is none, or more than one, or one of absurd length."""
    text = text.translate(MINUS)
    if len(text) > LONGEST:
        return None
    found = list(VALUE.finditer(text.rpartition("=")[2]))
    return _value(found[0]) if len(found) == 1 else None


def _value(found: re.Match[str]) -> Number | None:
    part = found.groupdict()
    top, bottom = part["latex_top"] or part["top"], part["latex_bottom"] or part["bottom"]
    if top is not None:
        if int(bottom) == 0:
            return None
        value = Fraction(int(top), int(bottom)) + int(part["whole"] or part["mixed"] or 0)
    else:
        digits = re.sub("[, _]", "", part["plain"])
        value = Fraction(digits) * Fraction(10) ** int(part["exponent"] or 0)
    if "-" in (part["sign"], part["sign2"]):
        value = -value
    return Number(value / 100, True) if part["percent"] else Number(value)


def answered_number(text: str) -> Number | None:
    """What a whole answer comes to: its marked number, or the last number it mentions."""
    marked = marked_answer(text)
    if marked is not None:
        return read_number(marked)
    visible = without_thinking(text)
    last = last_number(visible)
    if last is None:
        return None
    after = visible[visible.rfind(last) + len(last) :].lstrip("\\ ")
    return read_number(last + "%" if after.startswith("%") else last)


def right_number(reference: Any) -> Number | None:
    if isinstance(reference, str):
        return (
            answered_number(reference)
            if "####" in reference or "boxed" in reference
            else read_number(reference)
        )
    if isinstance(reference, float) and math.isfinite(reference):
        return Number(Fraction(repr(float(reference))))  # as it is written: 0.1 is one tenth
    return Number(Fraction(reference)) if isinstance(reference, numbers.Rational) else None


@dataclass(frozen=True)
class Numeric:
    """1 if the answer is within `absolute` or `relative` (to the right one) of the right number, else 0."""

    absolute: float = 0.0
    relative: float = 0.0
    trusted: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        right = right_number(attempt.reference)
        if right is None:
            return Failure("invalid", f"the reference {str(attempt.reference)[:100]!r} is not a number")
        given = answered_number(attempt.answer)
        if given is None:
            return Score(0.0)
        scales = (1, 100) if given.percent != right.percent else (1,)
        ways = [
            (given.value * s, right.value) if given.percent else (given.value, right.value * s)
            for s in scales
        ]
        return Score(float(any(self._near(a, b) for a, b in ways)))

    def _near(self, given: Fraction, right: Fraction) -> bool:
        return abs(given - right) <= max(Fraction(self.absolute), Fraction(self.relative) * abs(right))
