"""Length rewards by hand: midpoints, monotone branches, the edges of DAPO's line, the budget's slopes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.errors import UserError
from rung.rewards.length import Cosine, SoftOverlong, ThinkingBudget, cosine
from rung.rewards.matching import Exact
from rung.rewards.score import Abstain, Attempt, Failure, Score


def attempt(tokens, right=True, **more):
    return Attempt((), "yes" if right else "no", "yes", tokens=tokens, **more)


def test_cosine_at_start_middle_and_end():
    assert cosine(0, 100, 2.0, 1.0) == 2.0
    assert cosine(50, 100, 2.0, 1.0) == pytest.approx(1.5)
    assert cosine(100, 100, 2.0, 1.0) == pytest.approx(1.0)
    # One quarter: 1 + (2-1)(1 + cos 45°)/2 = 1 + 1.70710678/2
    assert cosine(25, 100, 2.0, 1.0) == pytest.approx(1.853553390593)
    assert cosine(50, 100, -10.0, 0.0) == pytest.approx(-5.0)


def test_beyond_the_longest_it_stays():
    assert cosine(200, 100, 2.0, 1.0) == pytest.approx(1.0)  # the bare cosine would be back at 2


@given(st.integers(0, 999), st.integers(1, 300))
def test_right_falls_and_wrong_rises_with_length(tokens, more):
    reward = Cosine(Exact(), longest=2000)
    assert reward(attempt(tokens)).value > reward(attempt(tokens + more)).value
    assert reward(attempt(tokens, False)).value < reward(attempt(tokens + more, False)).value
    assert reward(attempt(tokens)).value > reward(attempt(tokens, False)).value


def test_cosine_reward():
    reward = Cosine(Exact(), longest=100)
    assert reward(attempt(0)) == Score(1.0, {"verifier": 1.0})
    assert reward(attempt(50)).value == pytest.approx(0.75)
    assert reward(attempt(50, False)).value == pytest.approx(-0.75)
    assert reward(attempt(99)).value == pytest.approx(0.5, abs=1e-3)
    assert reward(attempt(100)).value == reward(attempt(5000)).value == -1.0
    assert reward(attempt(3, truncated=True)).value == -1.0
    paper = Cosine(Exact(), longest=100, right=(2, 1), wrong=(-10, 0), exceeded=-10)
    assert paper(attempt(50)).value == pytest.approx(1.5)
    assert paper(attempt(50, False)).value == pytest.approx(-5)
    assert reward.trusted


def test_cosine_passes_on_what_is_no_score():
    assert isinstance(Cosine(Exact(), 10)(Attempt((), "yes", None)), Failure)
    assert Cosine(lambda _: Abstain("tie"), 10)(attempt(1)) == Abstain("tie")
    assert not Cosine(lambda _: Abstain("tie"), 10).trusted


@pytest.mark.parametrize(
    ("tokens", "value"),
    [
        (0, 0),
        (16383, 0),
        (16384, 0),
        (16385, -1 / 4096),
        (18432, -0.5),
        (20479, -4095 / 4096),
        (20480, -1),
        (99999, -1),
    ],
)
def test_soft_overlong_at_the_papers_edges(tokens, value):
    assert SoftOverlong(longest=20480, margin=4096)(attempt(tokens)).value == pytest.approx(value)
    assert SoftOverlong(20480, 4096, penalty=0.5)(attempt(tokens)).value == pytest.approx(value / 2)


def test_soft_overlong_refuses_a_margin_it_cannot_have():
    for margin in (0, 101):
        with pytest.raises(UserError):
            SoftOverlong(longest=100, margin=margin)


def thought(n, closed=True):
    return Attempt((), "x", tokens=n + 5, token_ids=(1,) * n + ((8, 9) if closed else ()) + (1, 8, 9))


@pytest.mark.parametrize(
    ("n", "value"), [(0, 0), (5, 0.5), (10, 1), (15, 1), (20, 1), (30, 0.5), (40, 0), (99, 0)]
)
def test_thinking_budget(n, value):
    verdict = ThinkingBudget(least=10, most=20, closing=(8, 9))(thought(n))
    assert verdict.value == pytest.approx(value)
    assert verdict.parts == {"tokens": float(n), "within": float(10 <= n <= 20)}


def test_a_thought_that_never_ends_is_as_long_as_the_turn():
    reward = ThinkingBudget(0, 20, closing=(8, 7))
    assert reward(thought(11)).parts["tokens"] == 16
    assert isinstance(reward(Attempt((), "text")), Failure)
    with pytest.raises(UserError):
        ThinkingBudget(5, 4, (1,))
    assert math.isfinite(ThinkingBudget(0, 1, (8,))(Attempt((), "")).value)


def test_half_a_point_is_right_and_a_margin_may_be_the_whole_length():
    halves = Cosine(lambda _: Score(0.5), longest=100)
    assert halves(attempt(0)) == Score(1.0, {"verifier": 0.5})
    assert Cosine(lambda _: Score(0.49), longest=100)(attempt(0)).value == -1.0
    whole = SoftOverlong(10, 10, penalty=2.0)
    assert [whole(attempt(n)).value for n in (0, 5, 10, 20)] == [0, -1, -2, -2]


def test_a_thought_that_closes_with_the_last_token_is_as_long_as_what_stands_before():
    reward = ThinkingBudget(least=2, most=4, closing=(8, 9))
    assert reward(Attempt((), "t", token_ids=(1, 2, 3, 8, 9))).parts == {"tokens": 3.0, "within": 1.0}
    assert reward(Attempt((), "t", token_ids=(1, 8, 2, 3, 9, 8))).parts == {"tokens": 6.0, "within": 0.0}
    assert reward(Attempt((), "t", token_ids=(8, 9))).parts["tokens"] == 0.0
