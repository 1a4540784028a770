"""Success against length: known laws are recovered, and the wrong one is not believed."""

import math

import numpy as np
import pytest

from rung.errors import UserError
from rung.eval.length import fit_lengths, half_life_of, half_life_over, hazard, horizon


def draw(survival, seed, tasks=150, attempts=4):
    """Lengths from 1 to 1000, log-uniform."""
    generator = np.random.default_rng(seed)
    lengths = np.exp(generator.uniform(0, math.log(1000), tasks)).repeat(attempts)
    keys = [f"t:{i}" for i in np.arange(tasks).repeat(attempts)]
    return lengths, (generator.random(len(lengths)) < survival(lengths)).astype(float), keys


def constant_hazard(half):
    return lambda t: 0.5 ** (t / half)


def test_equal_lengths_have_a_closed_form():
    """Three of four survive length 10: exp(-10 lambda) = 3/4."""
    t, y = np.full(4, 10.0), np.array([1, 1, 1, 0])
    assert hazard(t, y) == pytest.approx(-math.log(0.75) / 10)
    assert half_life_of(t, y) == pytest.approx(10 * math.log(2) / -math.log(0.75))


def test_the_hazard_is_the_maximum_on_a_fine_grid():
    t, y, _ = draw(constant_hazard(40), 1, tasks=30)
    grid = np.exp(np.linspace(-8, 0, 20001))[:, None]
    likelihood = np.where(y, -grid * t, np.log(-np.expm1(-grid * t))).sum(1)
    assert hazard(t, y) == pytest.approx(grid[likelihood.argmax(), 0], rel=1e-3)


def test_nothing_failed_or_nothing_succeeded():
    t = np.array([1.0, 5.0, 9.0])
    assert half_life_of(t, np.ones(3)) == math.inf and half_life_of(t, np.zeros(3)) == 0.0
    found = fit_lengths(np.arange(1, 11), np.ones(10), [str(i) for i in range(10)])
    assert found.half_life.low == found.half_life.high == math.inf and "undecided" in found.verdict


def test_horizons_of_the_paper():
    """T80 is about T50 / 3.1, T90 / 6.6, T99 / 69, T99.9 / 693."""
    assert [1 / horizon(1, p) for p in (0.8, 0.9, 0.99, 0.999)] == pytest.approx(
        [3.1, 6.6, 69, 693], rel=0.01
    )
    assert horizon(7, 0.5) == 7 and horizon(7, 0.25) == pytest.approx(14)


def test_a_constant_hazard_is_recovered_and_believed():
    found = fit_lengths(*draw(constant_hazard(60), 2))
    assert found.half_life.value == pytest.approx(60, rel=0.25)
    assert found.half_life.low < 60 < found.half_life.high
    weibull = found.candidates["weibull"]
    assert weibull.parameters["kappa"] == pytest.approx(1, abs=0.2) and found.kappa_p > 0.05
    assert found.verdict.startswith("a constant hazard fits")
    assert found.candidates["constant"].aic > found.candidates["half-life"].aic + 50


def test_steps_that_each_may_fail_are_a_constant_hazard():
    """k subtasks, each failing with chance e: lambda = -ln(1 - e)."""
    generator = np.random.default_rng(3)
    steps = generator.integers(1, 60, 800)
    right = np.array([(generator.random(k) >= 0.05).all() for k in steps], float)
    found = fit_lengths(steps, right, [str(i) for i in range(800)])
    assert found.half_life.value == pytest.approx(math.log(2) / -math.log(0.95), rel=0.12)
    assert found.half_life.low <= math.log(2) / -math.log(0.95) <= found.half_life.high


def test_a_falling_hazard_is_told_from_a_constant_one():
    found = fit_lengths(*draw(lambda t: np.exp(-((t / 80) ** 0.4)), 4))
    assert found.candidates["weibull"].parameters["kappa"] == pytest.approx(0.4, abs=0.1)
    assert found.kappa_p < 1e-4 and found.verdict.startswith("no constant hazard")
    assert found.candidates["weibull"].held_out > found.candidates["half-life"].held_out


def test_a_logistic_horizon_is_told_from_a_constant_hazard():
    found = fit_lengths(*draw(lambda t: 1 / (1 + (t / 30) ** 3), 5))
    logistic = found.candidates["logistic"].parameters
    assert logistic["T50"] == pytest.approx(30, rel=0.15)
    assert logistic["slope"] == pytest.approx(3 * math.log(2), rel=0.25)
    assert (
        found.verdict.startswith("no constant hazard: logistic") and "logistic predicts best" in found.verdict
    )


def test_where_length_does_not_matter_nothing_is_claimed():
    assert "constant" in fit_lengths(*draw(lambda t: np.full(len(t), 0.6), 6)).verdict
    few = fit_lengths([10, 11, 12, 13, 14, 15], [1, 0, 1, 1, 0, 1], list("abcdef"))
    assert few.verdict.startswith("undecided")


def test_likelihoods_nest():
    found = fit_lengths(*draw(constant_hazard(20), 8)).candidates
    assert found["weibull"].log_likelihood >= found["half-life"].log_likelihood - 1e-6
    assert found["logistic"].log_likelihood >= found["constant"].log_likelihood - 1e-6
    for each in found.values():
        assert each.held_out < each.log_likelihood / 600, "what was held out was not fitted"
    assert found["half-life"].aic == pytest.approx(2 - 2 * found["half-life"].log_likelihood)
    assert found["weibull"].aic == pytest.approx(4 - 2 * found["weibull"].log_likelihood)


def test_the_half_life_does_not_depend_on_the_unit_of_length():
    t, y, keys = draw(constant_hazard(60), 9, tasks=40)
    minutes, seconds = fit_lengths(t, y, keys), fit_lengths(t * 60, y, keys)
    assert seconds.half_life.value == pytest.approx(60 * minutes.half_life.value, rel=1e-6)
    for name in minutes.candidates:
        assert seconds.candidates[name].aic == pytest.approx(minutes.candidates[name].aic, abs=1e-3)


def test_perfect_sorting_is_marked():
    t = np.arange(1.0, 21.0)
    found = fit_lengths(t, (t < 11).astype(float), [str(i) for i in t])
    assert found.candidates["logistic"].separated and not found.candidates["constant"].separated


def test_the_interval_covers_over_tasks():
    hits = 0
    for seed in range(30):
        t, y, _ = draw(constant_hazard(50), 100 + seed, tasks=40, attempts=2)
        rows = half_life_over(t, y, np.arange(40).repeat(2), seed, draws=150)
        hits += rows.low <= 50 <= rows.high
    assert hits >= 26


def test_too_little_is_refused():
    with pytest.raises(UserError, match="3 different lengths"):
        fit_lengths([1, 2, 1, 2, 1], [1, 0, 1, 0, 1], list("abcde"))
    with pytest.raises(UserError, match="positive length"):
        fit_lengths([0, 1, 2], [1, 0, 1], list("abc"))
