"""Countdown: exact arithmetic, each number once, and no way to run code."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.rewards.countdown import Countdown, evaluate
from rung.rewards.score import Attempt, Failure


def grade(answer, numbers=(3, 5, 8), target=16, **settings):
    return Countdown(**settings)(Attempt((), answer, {"numbers": list(numbers), "target": target}))


@pytest.mark.parametrize(
    "answer",
    [
        "3 + 5 + 8",
        "<answer>(3+5)+8</answer>",
        "\\boxed{8 + 3 + 5}",
        "8+5+3 = 16",
        "<think>no</think>3--5+8",
        "$5+3+8$",
    ],
)
def test_right(answer):
    assert grade(answer).value == 1


@pytest.mark.parametrize(
    ("answer", "reads", "numbers", "value"),
    [
        ("2 * 8", 1, 0, 1),  # 2 was not given
        ("8 + 8", 1, 0, 1),  # 8 was given once
        ("3 + 5 - 8", 1, 1, 0),
        ("16", 1, 0, 1),
        ("3 + 5 + 8 = 17", 0, 0, 0),
        ("3 + 5", 1, 0, 0),
        ("8 ** 5", 0, 0, 0),
        ("8 // 5", 0, 0, 0),
        ("8 / (5 - 5)", 0, 0, 0),
        ("__import__('os').getpid()", 0, 0, 0),
        ("3 + 5 + 8.0", 0, 0, 0),
        ("[3, 5, 8]", 0, 0, 0),
        ("3 if 5 else 8", 0, 0, 0),
        ("", 0, 0, 0),
        ("(" * 200 + "3" + ")" * 200, 0, 0, 0),
        ("1" * 299, 1, 0, 0),
        ("1+" * 100_000, 0, 0, 0),
        ("((", 0, 0, 0),
    ],
)
def test_wrong_and_how(answer, reads, numbers, value):
    verdict = grade(answer)
    assert verdict.value == 0
    if not answer.startswith("(((("):  # how deep is too deep is Python's to say
        assert verdict.parts == {"reads": reads, "numbers": numbers, "value": value}


def test_exact_fractions():
    # 8 / (3 - 8/3) = 24: in floats it is 23.999999999999993
    assert grade("8 / (3 - 8 / 3)", (8, 3, 8, 3), 24).value == 1
    assert 8 / (3 - 8 / 3) != 24
    assert grade("1 ÷ 3", (1, 3), "1/3").value == 1
    assert grade("3 \\times 5 − 8", target=7).value == 1


def test_leftover_numbers_and_partial_credit():
    assert grade("8 * 5", target=40).value == 0
    assert grade("8 * 5", target=40, every=False).value == 1
    assert grade("8 * 8", target=64, every=False).value == 0
    assert grade("8 + 5", partial=0.1).value == 0.1
    assert grade("nonsense", partial=0.1).value == 0


def test_columns_serve_as_well_and_a_broken_task_fails():
    assert Countdown()(Attempt((), "1+2", extra={"numbers": [1, 2], "target": 3})).value == 1
    for reference in (None, {}, {"numbers": [1], "target": "much"}, {"numbers": 5, "target": 1}):
        assert isinstance(Countdown()(Attempt((), "1", reference)), Failure)


expressions = st.recursive(
    st.integers(0, 50).map(lambda n: (str(n), [n])),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
        lambda t: (f"({t[0][0]}{t[1]}{t[2][0]})", t[0][1] + t[2][1])
    ),
    max_leaves=8,
)


@given(expressions)
def test_agrees_with_python_over_fractions(expression):
    text, numbers = expression
    found = evaluate(text)

    try:
        value = eval(re.sub(r"\d+", lambda m: f"Fraction({m.group()})", text), {"Fraction": Fraction})
    except ZeroDivisionError:
        assert found is None
    else:
        assert found == (value, numbers)
