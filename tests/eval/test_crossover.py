"""The crossover of pass@k: found where it is known, refused where there is none."""

from math import exp, inf, log

import numpy as np
import pytest

from rung.eval.crossover import crossing, crossover
from rung.eval.passk import pass_at


def curves(attempts, correct):
    return np.stack([pass_at(attempts, int(c)) for c in correct])


def test_crossing_by_hand():
    assert crossing(np.array([0.2, 0.1, -0.1])) == pytest.approx(
        exp((log(2) + log(3)) / 2)
    )  # half way in log k
    assert crossing(np.array([0.1, 0.0, -0.1])) == pytest.approx(exp((log(1) + log(3)) / 2))
    assert crossing(np.array([0.3, -0.1])) == pytest.approx(2**0.75)


def test_no_crossing_is_said_so():
    assert crossing(np.array([0.2, 0.1, 0.05])) == inf
    assert crossing(np.array([-0.2, -0.1])) == 0.0
    assert crossing(np.array([0.2, 0.0, 0.0])) == inf, "both saturated: they meet and nobody overtakes"
    assert crossing(np.array([0.0, 0.0])) == inf


def test_the_last_crossing_counts():
    """The base dips ahead, RL comes back, the base stays ahead."""
    assert crossing(np.array([0.1, -0.1, 0.1, -0.1])) == pytest.approx(exp((log(3) + log(4)) / 2))
    assert crossing(np.array([-0.1, 0.1, 0.2])) == inf


def expected_crossing(base, rl, most):
    """k* of the true curves, each problem's chance given: mean of 1 - (1 - p)^k."""
    k = np.arange(1, most + 1)[:, None]
    return crossing(((1 - (1 - rl) ** k) - (1 - (1 - base) ** k)).mean(1))


def test_a_sharpened_model_crosses_where_it_should():
    """RL solves half of the problems nearly always and lost the rest; the base solves all of them rarely."""
    generator = np.random.default_rng(1)
    base, rl = np.full(80, 0.06), np.repeat([0.9, 0.0], 40)
    found = crossover(curves(64, generator.binomial(64, base)), curves(64, generator.binomial(64, rl)))
    truth = expected_crossing(base, rl, 64)
    assert found.verdict == "crosses"
    assert found.low <= truth <= found.high and found.k == pytest.approx(truth, rel=0.35)
    assert found.high < 64 and found.low > 1
    assert (found.both + found.only_rl, found.only_rl) == (40, 40 - found.both) and found.only_base > 30
    assert found.p_at_most < 1e-6 and "crosses" in str(found)


def test_a_model_that_only_gained_never_crosses():
    generator = np.random.default_rng(2)
    found = crossover(
        curves(32, generator.binomial(32, np.full(60, 0.03))),
        curves(32, generator.binomial(32, np.full(60, 0.3))),
    )
    assert (found.verdict, found.k, found.high) == ("rl ahead", inf, inf)
    assert "beyond 32" in str(found)


def test_a_model_that_only_lost_is_behind_from_the_start():
    generator = np.random.default_rng(3)
    found = crossover(
        curves(32, generator.binomial(32, np.full(60, 0.3))),
        curves(32, generator.binomial(32, np.full(60, 0.03))),
    )
    assert (found.verdict, found.k) == ("base ahead", 0.0) and "before 1" in str(found)


def test_equal_models_are_undecided_with_an_interval_that_says_nothing():
    generator = np.random.default_rng(4)
    chance = generator.beta(0.5, 1, 40)
    found = crossover(curves(16, generator.binomial(16, chance)), curves(16, generator.binomial(16, chance)))
    assert found.verdict == "undecided" and found.low == 0.0 and found.high == inf


def test_the_interval_covers_the_crossing():
    """24 studies of 60 problems whose chances are drawn anew; the truth is the crossing of the population."""
    generator = np.random.default_rng(5)
    many = generator.random(4000) < 0.5
    truth = expected_crossing(np.full(4000, 0.08), np.where(many, 0.8, 0.0), 32)
    hits = 0
    for study in range(24):
        rl = np.where(generator.random(60) < 0.5, 0.8, 0.0)
        found = crossover(
            curves(32, generator.binomial(32, 0.08, 60)), curves(32, generator.binomial(32, rl)), seed=study
        )
        hits += found.low <= truth <= found.high
    assert hits >= 20


def test_different_problems_are_refused():
    with pytest.raises(ValueError, match="same problems"):
        crossover(np.ones((3, 4)), np.ones((3, 5)))
