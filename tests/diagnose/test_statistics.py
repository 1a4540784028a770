"""Numbers from tables and by hand; the level of each test where its null hypothesis just holds."""

import math

import numpy as np
import pytest

from rung.diagnose.evidence import Bet
from rung.diagnose.overfitting import by_chance
from rung.diagnose.statistics import (
    at_least,
    change,
    common_count,
    extreme_scores,
    fall_beyond,
    normal_tail,
    t_quantile,
    upper_bound,
)


@pytest.mark.parametrize(
    ("degrees", "upper", "value"),
    [(1, 0.05, 6.3138), (5, 0.01, 3.3649), (30, 0.001, 3.3852), (4.5, 0.025, 2.6585)],
)
def test_student(degrees, upper, value):
    assert t_quantile(degrees, upper) == pytest.approx(value, rel=2e-3)


def test_welch_by_hand():
    """Means 2 and 5, variances 1 and 4 over 3 and 3: error sqrt(5/3), degrees (5/3)^2 / (1/18 + 16/18)."""
    difference, low, high = change([1, 2, 3], [3, 5, 7], 0.025)
    reach = t_quantile((5 / 3) ** 2 / (17 / 18), 0.025) * math.sqrt(5 / 3)
    assert (difference, low, high) == pytest.approx((3, 3 - reach, 3 + reach))
    assert change([1, 1], [2, 2], 0.01) == (1, 1, 1)


def test_binomial_tail_by_hand():
    assert at_least(0, 10, 0.3) == pytest.approx(1)
    assert at_least(2, 3, 0.5) == pytest.approx(0.5)
    assert at_least(3, 3, 0.1) == pytest.approx(0.001)
    assert at_least(0, 0, 0.01) == 1


def test_a_fall_in_standard_errors():
    """50 and 50 of 98, one of each added: no fall, and with a loss of 0.1 that much below."""
    assert fall_beyond(0.5, 0.5, 98, 0.0) == 0
    assert fall_beyond(0.5, 0.5, 98, 0.1) == pytest.approx(-0.1 / math.sqrt(0.5 / 100))
    assert fall_beyond(1.0, 0.0, 10**6, 0.0) > 100 and normal_tail(1.959964) == pytest.approx(0.025)


@pytest.mark.parametrize("count", [10, 30])
def test_the_chance_of_forgetting_where_the_fall_is_just_tolerated(count):
    """Summed over all outcomes: at most a half more than the level, whatever the first share."""
    ks = np.arange(count + 1)
    ways = np.array([math.comb(count, k) for k in ks])
    said = np.array(
        [[normal_tail(fall_beyond(a / count, b / count, count, 0.03)) <= 0.01 for b in ks] for a in ks]
    )
    for p in np.linspace(0.03, 1, 25):
        before, after = (ways * q**ks * (1 - q) ** (count - ks) for q in (p, p - 0.03))
        assert before @ said @ after <= 0.015


def test_extreme_scores_keep_the_mean_and_prove_least():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = rng.random(rng.integers(1, 30))
        stand_ins = extreme_scores(float(scores.mean()), len(scores))
        assert len(stand_ins) == len(scores) and sum(stand_ins) == pytest.approx(scores.sum())
        assert Bet(0.4).update(stand_ins) <= Bet(0.4).update(scores) + 1e-9
    assert extreme_scores(0.5, 4) == (1, 1, 0, 0) and extreme_scores(1.0, 2) == (1, 1)
    assert extreme_scores(0.625, 4) == (1, 1, 0.5, 0)


def test_the_number_of_tasks_behind_shares():
    assert common_count([0.5, 0.2], 200) == 10 and common_count([0.0], 200) == 1
    assert common_count([1 / 3], 2) == 0


def test_bounds_mirror_each_other():
    assert upper_bound(0.0, 40, 0.005) == pytest.approx(1 - 0.005 ** (1 / 40), abs=1e-6)


@pytest.mark.parametrize("count", [5, 12, 25])
def test_a_flat_held_out_loss_seldom_rises_by_chance(count):
    rng = np.random.default_rng(1)
    assert sum(by_chance(rng.normal(size=count)) <= 0.01 for _ in range(200)) <= 7  # 2 expected, P(8) < 0.002
    assert by_chance(np.concatenate([np.linspace(2, 1, count), np.linspace(1, 2, count)])) < 0.001
