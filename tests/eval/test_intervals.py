"""Intervals: known values, and the truth lies inside about as often as they claim."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.eval.intervals import Estimate, bootstrap, percentiles, proportion, replicates, wilson


def test_wilson_against_published_values():
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)


@given(st.integers(1, 400), st.data())
def test_wilson_solves_its_own_equation(trials, data):
    """The ends are where (p_hat - p)^2 = z^2 p (1 - p) / n, and swapping right and wrong mirrors them."""
    right = data.draw(st.integers(0, trials))
    low, high = wilson(right, trials)
    for end in (low, high):
        if 0 < end < 1:
            assert (right / trials - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / trials, abs=1e-9)
    assert wilson(trials - right, trials) == pytest.approx((1 - high, 1 - low))


def test_wilson_refuses_what_is_no_proportion():
    for right, trials in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="no proportion"):
            wilson(right, trials)


def test_bca_of_a_symmetric_mean_is_the_normal_interval():
    values = np.linspace(-1, 1, 200)
    found = bootstrap(lambda units: values[units].mean(), 200, draws=6000)
    half = 1.96 * values.std() / math.sqrt(200)
    assert (found.low, found.value, found.high) == pytest.approx((-half, 0, half), abs=0.006)


def test_bca_leans_to_the_long_tail():
    """For a skewed sample the upper arm is the longer one, which a percentile interval understates."""
    values = np.random.default_rng(3).exponential(size=40)
    found = bootstrap(lambda units: values[units].mean(), 40, draws=6000)
    low, high = percentiles(replicates(lambda units: values[units].mean(), 40, 6000))
    assert found.high - found.value > found.value - found.low
    assert found.high > high and found.low > low


def coverage(draw, interval, truth, studies=200):
    generator = np.random.default_rng(11)
    hits = 0
    for study in range(studies):
        found = interval(draw(generator), study)
        hits += found.low <= truth <= found.high
    return hits / studies


def test_bca_covers_the_mean_of_a_skewed_law():
    share = coverage(
        lambda generator: generator.exponential(size=50),
        lambda x, seed: bootstrap(lambda units: x[units].mean(), len(x), draws=500, seed=seed),
        truth=1.0,
    )
    assert 0.89 <= share <= 0.985


def attempts(generator, problems=40, each=8):
    """Problems are very easy or very hard, so attempts at one are alike."""
    return generator.binomial(each, generator.beta(0.5, 0.5, problems))


def test_resampling_problems_covers_and_pretending_independence_does_not():
    def by_problem(right, seed):
        return proportion(right, np.full(40, 8), draws=400, seed=seed)

    def by_attempt(right, seed):
        return Estimate(right.sum() / 320, *wilson(right.sum(), 320))

    assert 0.90 <= coverage(attempts, by_problem, 0.5) <= 0.99
    assert coverage(attempts, by_attempt, 0.5) < 0.75


def test_wilson_covers_near_the_edge():
    share = coverage(
        lambda generator: generator.random(60) < 0.05,
        lambda right, seed: proportion(right, np.ones(60)),
        truth=0.05,
        studies=400,
    )
    assert share >= 0.93


def test_a_proportion_by_hand():
    found = proportion(np.array([1, 0, 1, 1]), np.ones(4))
    assert (found.value, found.low, found.high) == (0.75, *wilson(3, 4))
    assert proportion(np.array([3, 0]), np.array([4, 0])).value == 0.75  # the unscored problem says nothing
    assert proportion(np.array([2, 1]), np.array([2, 4])).value == 0.5  # 3 of 6, not the mean of 1 and 1/4


@pytest.mark.parametrize("right", [0, 8])
def test_all_alike_is_not_certainty(right):
    found = proportion(np.full(10, right), np.full(10, 8))
    assert (found.low, found.high) == wilson(right / 8 * 10, 10)
    same = proportion(np.full(10, 4), np.full(10, 8))
    assert same.low < 0.3 and same.high > 0.7


def test_one_problem_is_one_problem_whatever_its_attempts():
    assert proportion(np.array([500]), np.array([1000])).low == wilson(0.5, 1)[0]


def test_the_same_seed_gives_the_same_interval_and_another_another():
    values = np.random.default_rng(0).normal(size=30)

    def ends(seed):
        return bootstrap(lambda units: values[units].mean(), 30, seed=seed)

    assert ends(1) == ends(1) and ends(1) != ends(2)


def test_percentiles_keep_infinity():
    low, high = percentiles(np.array([1.0] * 50 + [np.inf] * 50))
    assert (low, high) == (1.0, np.inf)


def test_a_wild_small_sample_still_gives_ordered_ends():
    for sample in ([0, 0, 1000.0], [0, 0, 0, -1e6], [1, 2], [1, 1, 1, 1, 50.0]):
        x = np.array(sample)
        found = bootstrap(lambda units, x=x: x[units].mean(), len(x), draws=500)
        assert found.low <= found.high


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to resample"):
        replicates(lambda units: 0.0, 0)
    with pytest.raises(ValueError, match="no attempt was scored"):
        proportion(np.array([0]), np.array([0]))


def test_bca_equals_scipys():
    """scipy.stats.bootstrap with method BCa and 300,000 draws gave these ends."""
    x = np.array([0.1, 0.2, 0.2, 0.4, 0.5, 0.7, 0.9, 1.3, 1.8, 2.6, 4.1, 7.5])
    mean = bootstrap(lambda units: x[units].mean(), 12, draws=8000)
    spread = bootstrap(lambda units: x[units].std(), 12, draws=8000)
    assert (mean.low, mean.high) == pytest.approx((0.845, 3.504), rel=0.04)
    assert (spread.low, spread.high) == pytest.approx((1.022, 3.380), rel=0.04)


def test_replicates_that_equal_the_value_are_on_both_sides():
    bits = np.array([0, 1] * 3)
    found = bootstrap(lambda units: bits[units].mean(), 6, draws=8000)
    assert found.low + found.high == pytest.approx(1, abs=0.01)
