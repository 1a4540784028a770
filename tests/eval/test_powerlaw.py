"""Power laws: recovered where the data hold one, called out where they do not."""

import numpy as np
import pytest

from rung.errors import UserError
from rung.eval.powerlaw import beyond, fit_power_law, student


def noisy(law, low, high, count, noise, seed=0):
    x = np.exp(np.linspace(np.log(low), np.log(high), count))
    return x, law(x) * np.exp(np.random.default_rng(seed).normal(0, noise, count))


def law(x):
    return 1.7 + 40 * x**-0.4


def test_a_noiseless_law_is_recovered_exactly_from_any_units():
    for unit in (1.0, 1e9):
        x, y = noisy(law, 10, 1e5, 12, 0)
        found = fit_power_law(x * unit, y)
        assert (found.floor, found.exponent) == pytest.approx((1.7, 0.4), rel=1e-4)
        assert found.scale == pytest.approx(40 * unit**0.4, rel=1e-3)
        assert found.doubts == () and found.held_out_error < 1e-4
        assert found.at(1e7 * unit) == pytest.approx([law(1e7)] * 3, rel=1e-3)


def test_without_a_floor_it_is_a_line_in_logs():
    x, y = noisy(lambda x: 3 * x**-0.25, 1, 1e4, 10, 0)
    found = fit_power_law(x, y, with_floor=False)
    assert (found.floor, found.scale, found.exponent) == pytest.approx((0, 3, 0.25), rel=1e-4)


def test_a_floor_is_never_negative():
    x, y = noisy(lambda x: 5 * x**-0.5, 1, 1e4, 10, 0.02)
    assert fit_power_law(x, y).floor >= 0


def test_a_wide_range_with_little_noise_is_trusted_and_predicts():
    x, y = noisy(law, 10, 1e5, 20, 0.01)
    found = fit_power_law(x, y)
    assert found.doubts == ()
    value, low, high = found.at(1e7)
    assert low <= law(1e7) <= high and value == pytest.approx(law(1e7), rel=0.05)
    assert found.exponent_low <= 0.4 <= found.exponent_high


def test_a_narrow_range_is_called_that():
    x, y = noisy(law, 1000, 3000, 20, 0.01)
    found = fit_power_law(x, y)
    assert found.doubts[0].startswith("range too narrow: x spans a factor of 3,")
    assert any(doubt.startswith("exponent not determined") for doubt in found.doubts)
    value, low, high = found.at(1e7)
    assert high - low > 0.5 * value  # and the prediction says how little is known


def test_what_only_looks_like_a_power_law_is_found_out():
    """Half a sigmoid in log x: smooth, falling, and a different thing later."""

    def cliff(x):
        return 0.1 + 1 / (1 + (x / 1e4) ** 2)

    whole = fit_power_law(*noisy(cliff, 10, 1e6, 24, 0.005))
    assert any(doubt.startswith("wrong form") for doubt in whole.doubts)
    ends_at_the_cliff = fit_power_law(*noisy(cliff, 10, 1.5e4, 24, 0.005))
    assert any(doubt.startswith("misses what it has not seen") for doubt in ends_at_the_cliff.doubts)


def test_honest_noise_raises_no_doubt_about_the_form():
    wrong = sum(
        any(
            d.startswith(("wrong", "misses")) for d in fit_power_law(*noisy(law, 10, 1e5, 16, 0.02, s)).doubts
        )
        for s in range(50)
    )
    assert wrong <= 5


def test_noise_makes_the_exponent_unknown():
    x, y = noisy(law, 100, 1500, 8, 0.15, seed=1)
    assert any(doubt.startswith("exponent not determined") for doubt in fit_power_law(x, y).doubts)


def test_the_exponents_interval_covers():
    hits = 0
    for seed in range(40):
        found = fit_power_law(*noisy(law, 10, 1e4, 12, 0.03, seed=seed))
        hits += found.exponent_low <= 0.4 <= found.exponent_high
    assert hits >= 34


def test_the_held_out_error_is_of_points_the_fit_did_not_see():
    """Spoil only the last quarter: the near points still predict the law, so the error is the spoiling."""
    x, y = noisy(law, 10, 1e5, 16, 0)
    y[-4:] *= 1.2
    found = fit_power_law(x, y)
    assert found.held_out_error == pytest.approx(1 - 1 / 1.2, rel=1e-3)
    assert found.held_out_decades == pytest.approx(4 * 4 / 15)


def test_asking_too_far_is_said():
    found = fit_power_law(*noisy(law, 10, 1e3, 12, 0.01))
    assert beyond(found, 1e3, 5e4) == "" and "beyond data that span 2" in beyond(found, 1e3, 1e6)


def test_too_few_points_or_impossible_values_are_refused():
    with pytest.raises(UserError, match="at least 5 different x"):
        fit_power_law([1, 2, 3, 4, 4], [5, 4, 3, 2, 2])
    with pytest.raises(UserError, match="positive"):
        fit_power_law([1, 2, 3, 4, 5], [5, 4, 3, 2, 0])


def test_students_quantile_against_tables():
    assert [student(f) for f in (2, 3, 5, 10, 30)] == pytest.approx(
        [4.303, 3.182, 2.571, 2.228, 2.042], rel=0.035
    )
    assert student(10) == pytest.approx(2.2281, abs=1e-3) and student(10**6) == pytest.approx(
        1.95997, abs=1e-4
    )
