"""One advantage per rollout, and which groups and rollouts should train at all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.advantages import groups
from rung.advantages.filters import carries_signal, overlong_filter

NAN = np.nan
# Two groups, interleaved: rewards 1, 0, 0 and 2, 4 (a mean of 1/3 and of 3).
REWARD = np.array([1.0, 2.0, 0.0, 4.0, 0.0])
GROUP = np.array([7, 3, 7, 3, 7])
GROUPED = [groups.group_mean, groups.group_normalized, groups.leave_one_out, groups.group_mean_batch_std]


def test_group_mean_by_hand():
    assert groups.group_mean(REWARD, GROUP) == pytest.approx([2 / 3, -1, -1 / 3, 1, -1 / 3])


def test_group_normalized_by_hand():
    """Sample deviations 1/sqrt(3) and sqrt(2)."""
    expected = [2 / 3**0.5, -1 / 2**0.5, -1 / 3**0.5, 1 / 2**0.5, -1 / 3**0.5]
    assert groups.group_normalized(REWARD, GROUP, epsilon=0) == pytest.approx(expected)
    assert groups.group_normalized(REWARD, GROUP, epsilon=1)[3] == pytest.approx(1 / (2**0.5 + 1))


def test_population_deviation_and_limit_are_reason_maxxers():
    """Deviation sqrt(2)/3 for 1, 0, 0: 2/3 over it is sqrt(2); one right of ten would be 3."""
    assert groups.group_normalized(REWARD, GROUP, ddof=0, epsilon=0)[0] == pytest.approx(2**0.5)
    rare = np.array([1.0] + [0.0] * 9)
    one = np.zeros(10, int)
    assert groups.group_normalized(rare, one, ddof=0, epsilon=0)[0] == pytest.approx(3)
    assert groups.group_normalized(rare, one, ddof=0, epsilon=0, limit=2.5)[0] == 2.5


def test_leave_one_out_by_hand():
    assert groups.leave_one_out(REWARD, GROUP) == pytest.approx([1, -2, -0.5, 2, -0.5])


def test_one_deviation_for_the_whole_batch_by_hand():
    """Centred 2/3, -1, -1/3, 1, -1/3: mean square (4 + 9 + 1 + 9 + 1) / 9 / 5."""
    scale = (24 / 45) ** 0.5
    assert groups.group_mean_batch_std(REWARD, GROUP, epsilon=0)[:2] == pytest.approx(
        [2 / 3 / scale, -1 / scale]
    )


REWARDS = st.lists(st.floats(-10, 10, allow_subnormal=False), min_size=2, max_size=8).map(np.array)


@given(REWARDS)
def test_leave_one_out_is_the_group_mean_scaled_and_is_what_its_name_says(reward):
    one, size = np.zeros(len(reward), int), len(reward)
    advantage = groups.leave_one_out(reward, one)
    assert advantage == pytest.approx(size / (size - 1) * groups.group_mean(reward, one))
    assert advantage[0] == pytest.approx(reward[0] - reward[1:].mean(), abs=1e-9)


@pytest.mark.parametrize("estimator", GROUPED)
@given(value=st.floats(-1e6, 1e6), size=st.integers(2, 9))
def test_equal_rewards_give_exactly_nothing(estimator, value, size):
    assert (estimator(np.full(size, value), np.zeros(size, int)) == 0).all()


def test_rounding_noise_is_no_signal():
    """0.1 + 0.2 against 0.3: a difference in the last bit does not become an advantage of 0.7."""
    advantage = groups.group_normalized(np.array([0.1 + 0.2, 0.3]), np.zeros(2, int))
    assert np.abs(advantage).max() < 1e-9


@pytest.mark.parametrize("estimator", GROUPED)
def test_rollouts_without_a_score_get_nothing_and_change_nothing(estimator):
    reward = np.array([1.0, 0.0, NAN, 2.0, 0.0, NAN])
    group = np.array([0, 0, 0, 1, 1, 1])
    scored = ~np.isnan(reward)
    advantage = estimator(reward, group)
    assert np.isnan(advantage[~scored]).all()
    assert advantage[scored] == pytest.approx(estimator(reward[scored], group[scored]))


@pytest.mark.parametrize("estimator", GROUPED)
def test_a_group_with_one_score_or_none_is_dead(estimator):
    advantage = estimator(np.array([5.0, NAN, NAN, NAN, 1.0, 0.0]), np.array([0, 0, 1, 1, 2, 2]))
    assert np.isnan(advantage[:4]).all() and not np.isnan(advantage[4:]).any()
    assert np.isnan(estimator(np.array([NAN]), np.array([0]))).all()


@given(REWARDS, st.floats(-5, 5), st.randoms())
def test_group_normalisation_forgets_scale_shift_and_order(reward, shift, random):
    one = np.zeros(len(reward), int)
    order = list(range(len(reward)))
    random.shuffle(order)
    advantage = groups.group_normalized(reward, one, epsilon=0) if np.ptp(reward) > 1e-3 else None
    if advantage is not None:
        moved = groups.group_normalized(3 * reward[order] + shift, one, epsilon=0)
        assert moved == pytest.approx(advantage[order], abs=1e-6)
        assert advantage.std(ddof=1) == pytest.approx(1)


def test_greedy_and_batch_baselines():
    assert groups.above_greedy(np.array([1.0, 0.0, NAN, 1.0]), np.array([1.0, 0.5, 0, NAN])).tolist()[:2] == [
        0,
        -0.5,
    ]
    assert np.isnan(groups.above_greedy(np.array([NAN, 1.0]), np.array([0, NAN]))).all()
    assert groups.above_batch(np.array([1.0, NAN, 0.0])).tolist()[::2] == [0.5, -0.5]
    assert np.isnan(groups.above_batch(np.array([NAN]))).all()
    assert groups.above_batch(np.full(3, 0.1)).tolist() == [0, 0, 0]


def test_the_running_baseline_looks_at_earlier_rounds_only():
    first, baseline = groups.above_running(np.array([1.0, 0.0]), None)
    assert (first.tolist(), baseline) == ([0.5, -0.5], 0.5)
    second, baseline = groups.above_running(np.array([1.0, NAN]), baseline, decay=0.8)
    assert second[0] == 0.5 and np.isnan(second[1]) and baseline == pytest.approx(0.8 * 0.5 + 0.2)
    nothing, kept = groups.above_running(np.array([NAN]), baseline)
    assert np.isnan(nothing).all() and kept == baseline


def test_dynamic_sampling_keeps_groups_that_disagree():
    reward = np.array([1.0, 1.0, 0.0, 1.0, 0.3, NAN, NAN, 0.0, NAN, NAN])
    group = np.array([0, 0, 1, 1, 2, 2, 1, 3, 3, 4])
    assert (
        carries_signal(reward, group).tolist()
        == [False] * 2 + [True] * 2 + [False] * 2 + [True] + [False] * 3
    )
    same = np.full(3, 0.1)
    assert not carries_signal(same, np.zeros(3)).any()


def test_overlong_answers_weigh_nothing():
    assert overlong_filter(np.array([True, False])).tolist() == [0, 1]
