"""The calculator: exact, bounded, and never Python."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.envs.calculator import LONGEST, NotArithmetic, evaluate, shown


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3 * 4", "14"),
        ("0.1 + 0.2", "0.3"),
        ("1/3*3", "1"),
        ("-2**2", "-4"),
        ("2^10", "1024"),
        ("7 // 2 + 7 % 2", "4"),
        ("-7 // 2", "-4"),
        ("1,234,567 + 1", "1234568"),
        ("6 × 7 − 2 ÷ 4", "41.5"),
        ("1/8", "0.125"),
        ("-1/8", "-0.125"),
        ("2/3", "2/3 (about 0.6666666667)"),
        ("2**-2", "0.25"),
        (".5 + 5.", "5.5"),
    ],
)
def test_known_values(text, value):
    assert shown(evaluate(text)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1/0",
        "1 % 0",
        "0**-1",
        "2 +",
        "2 3",
        "()",
        "5(3)",
        "(1, 2)",
        "__import__('os')",
        "a + 1",
        "1_000",
        "1e9",
        "9**9**9",
        "9**200",
        "10**60 * 10",
        "2**0.5",
        "(" * 150 + "1" + ")" * 150,
        "1" * (LONGEST + 1),
        "1 if 1 else 2",
        "1 < 2",
        "1,2",
        "007",
        "...",
    ],
)
def test_everything_else_is_refused_with_a_reason(text):
    with pytest.raises(NotArithmetic, match=r"\w"):
        evaluate(text)


@given(st.text(alphabet="0123456789+-*/%(). ^", max_size=LONGEST + 20))
def test_no_text_gets_through_as_anything_but_a_bounded_value(text):
    try:
        value = evaluate(text)
    except NotArithmetic:
        return
    assert abs(value.numerator) <= 10**60 and value.denominator <= 10**60


@given(st.fractions(max_denominator=10**6))
def test_what_is_shown_is_exact(value):
    assert Fraction(shown(value).split(" ")[0]) == value


@given(st.integers(-999, 999), st.integers(-999, 999), st.sampled_from("+-*"), st.integers(-99, 99))
def test_agrees_with_python_on_whole_numbers(a, b, sign, c):
    text = f"({a} {sign} {b}) * {c} - {a}"
    assert evaluate(text) == eval(text)
