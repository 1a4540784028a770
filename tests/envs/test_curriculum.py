"""The difficulty filter: hand-derived intervals, few attempts treated as few."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.envs.curriculum import Results, chance_of_signal, counted, interval, selected, worth_training
from rung.envs.environment import Task
from rung.errors import UserError


def test_wilson_by_hand():
    """0 of n: [0, z^2 / (n + z^2)]; n of n mirrors it; 2 of 4 with z = 1: 1/2 +- 1/(2 sqrt 5)."""
    assert interval(Results(0, 4), 1.0) == pytest.approx((0, 1 / 5))
    assert interval(Results(4, 4), 1.0) == pytest.approx((4 / 5, 1))
    assert interval(Results(2, 4), 1.0) == pytest.approx((0.5 - 0.2236068, 0.5 + 0.2236068))


@pytest.mark.parametrize(
    ("successes", "attempts", "kept"),
    [
        (0, 0, True),  # never tried
        (0, 4, True),  # up to 1/5 is possible
        (0, 8, True),  # up to 1/9 is
        (0, 10, False),  # up to 1/11 is not enough for 0.1
        (10, 10, False),
        (9, 10, True),
        (1, 100, False),
        (50, 100, True),
    ],
)
def test_a_task_is_dropped_only_when_its_results_say_so(successes, attempts, kept):
    assert worth_training(Results(successes, attempts), 0.1, 0.9) is kept


def test_the_plain_rule_is_there_too():
    assert not worth_training(Results(0, 1), 0.1, 0.9, confident=False)
    assert worth_training(Results(1, 10), 0.1, 0.9, confident=False)
    assert worth_training(Results(0, 0), 0.1, 0.9, confident=False)


@given(
    st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.floats(0, 0.5),
    st.floats(0.5, 1),
)
def test_a_rate_inside_the_range_is_never_dropped_and_more_certainty_drops_less(counts, low, high):
    results = Results(*counts)
    if low <= counts[0] / counts[1] <= high:
        assert worth_training(results, low, high)
    if worth_training(results, low, high, z=1.0):
        assert worth_training(results, low, high, z=1.96)


@given(st.integers(0, 50), st.integers(0, 50))
def test_easy_and_hard_mirror_each_other(a, b):
    assert worth_training(Results(a, a + b), 0.2, 0.8) == worth_training(Results(b, a + b), 0.2, 0.8)


def test_selected_is_in_order_and_needs_no_results():
    tasks = [Task(key, ()) for key in "abcd"]
    results = {"a": Results(0, 64), "b": Results(30, 64), "c": Results(64, 64)}
    assert selected(tasks, results) == [1, 3]
    assert selected(tasks, {}) == [0, 1, 2, 3]
    assert selected([], {}) == []
    with pytest.raises(UserError, match=r"no task has a pass rate .* of 1 tasks"):
        selected(tasks[:1], results)
    with pytest.raises(UserError, match=r"from 0\.9 to 0\.1"):
        selected(tasks, results, low=0.9, high=0.1)


def test_counting():
    assert counted([("a", True), ("b", False), ("a", False)]) == {"a": Results(1, 2), "b": Results(0, 1)}
    with pytest.raises(ValueError, match="3 successes in 2"):
        Results(3, 2)


def test_the_chance_of_a_group_that_differs_by_counting_coins():
    assert chance_of_signal(0.5, 3) == pytest.approx(6 / 8)
    assert chance_of_signal(0.0, 8) == chance_of_signal(1.0, 8) == 0
