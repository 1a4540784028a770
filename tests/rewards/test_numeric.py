"""Numbers as people and models write them; exact, and never two answers in one."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.rewards.numeric import Numeric, read_number
from rung.rewards.score import Attempt, Failure, Score


def grade(answer, reference, **settings):
    return Numeric(**settings)(Attempt((), answer, reference))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("+5", 5),
        ("\u22125", -5),
        ("1,234,567", 1234567),
        ("1 234 567", 1234567),
        ("1,234.50", Fraction("1234.5")),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("0.1", Fraction(1, 10)),
        ("1.5e3", 1500),
        ("1e-3", Fraction(1, 1000)),
        ("1/3", Fraction(1, 3)),
        ("-1/3", Fraction(-1, 3)),
        ("2 1/2", Fraction(5, 2)),
        ("\\frac{3}{4}", Fraction(3, 4)),
        ("-\\dfrac{3}{4}", Fraction(-3, 4)),
        ("1\\frac{1}{2}", Fraction(3, 2)),
        ("$18", 18),
        ("-$18", -18),
        ("$18.00 a day", 18),
        ("x = 18 apples", 18),
        ("50%", Fraction(1, 2)),
        ("50\\%", Fraction(1, 2)),
    ],
)
def test_one_number_is_read(text, value):
    assert read_number(text).value == value


@pytest.mark.parametrize(
    "text", ["", "none", "3 or 4", "12,5", "1/0", "1, 2", "3,4,5", "9" * 300, "1.2.3", "x3"]
)
def test_what_is_not_one_number_is_none(text):
    assert read_number(text) is None


def test_right_and_wrong():
    assert grade("<answer>5</answer>", 5) == Score(1.0)
    assert grade("<answer>5</answer>", "5") == Score(1.0)
    assert grade("<answer>5.0</answer>", 5) == Score(1.0)
    assert grade("<answer>6</answer>", 5) == Score(0.0)
    assert grade("#### 18", "He has 9 * 2\n#### 18") == Score(1.0)
    assert grade("first 3, then 18 dollars.", "18") == Score(1.0)
    assert grade("no idea", "18") == Score(0.0)
    assert grade("<think>18</think>", "18") == Score(0.0)
    assert grade("<answer>0.1</answer>", 0.1) == Score(1.0)


def test_naming_every_answer_is_wrong():
    assert grade("\\boxed{3 or 5}", 5) == Score(0.0)
    assert grade("<answer>1 2 3 4 5</answer>", 5) == Score(0.0)


def test_a_third_is_not_a_decimal_unless_tolerance_says_so():
    assert grade("\\boxed{0.333}", "1/3") == Score(0.0)
    assert grade("\\boxed{0.333}", "1/3", absolute=0.001) == Score(1.0)
    assert grade("\\boxed{1010}", 1000, relative=0.01) == Score(1.0)  # the edge belongs to it
    assert grade("\\boxed{1011}", 1000, relative=0.01) == Score(0.0)
    assert grade("\\boxed{-1010}", -1000, relative=0.01) == Score(1.0)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("50%", 50, 1),
        ("50%", 0.5, 1),
        ("50", "50%", 1),
        ("0.5", "50%", 1),
        ("50%", "50%", 1),
        ("0.5%", "50%", 0),
        ("5%", 50, 0),
        ("0.5", 50, 0),
    ],
)
def test_per_cent(answer, reference, right):
    assert grade(f"<answer>{answer}</answer>", reference) == Score(float(right))
    assert grade(f"it is {answer}", reference) == Score(float(right))


@pytest.mark.parametrize("reference", [None, "many", float("nan"), float("inf"), [5], "3 or 4"])
def test_a_broken_reference_is_a_failure_not_a_zero(reference):
    verdict = grade("<answer>5</answer>", reference)
    assert isinstance(verdict, Failure) and verdict.kind == "invalid"


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{:d}", "{:,d}", "{:.2f}", "{:.6e}"]))
def test_what_python_writes_is_read_back(number, form):
    written = form.format(number)
    exact = Fraction(written.replace(",", ""))
    assert read_number(written).value == exact
    assert grade(f"so it is {written}.", exact) == Score(1.0)


@given(st.fractions(max_denominator=1000))
def test_fractions_are_exact(value):
    assert grade(f"\\boxed{{{value}}}", value) == Score(1.0)
    assert grade(f"\\boxed{{{value}}}", value + Fraction(1, 10**9)) == Score(0.0)


@given(st.text(max_size=200), st.integers())
def test_any_text_gets_a_score(text, reference):
    assert isinstance(grade(text, reference), Score)
