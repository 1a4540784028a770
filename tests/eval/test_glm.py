"""Binomial regression against closed forms and finite differences."""

import math

import numpy as np
import pytest

from rung.eval.glm import fit, log_likelihood


def two_by_two():
    """10 of 30 right without, 24 of 40 with: log odds ratio log((24/16) / (10/20)) = log 3."""
    x = np.repeat([0, 1], [30, 40])
    y = np.concatenate([np.repeat([1, 0], [10, 20]), np.repeat([1, 0], [24, 16])])
    return np.column_stack([np.ones(70), x]), y


def test_a_two_by_two_table_has_a_closed_form():
    found = fit(*two_by_two())
    assert found.coefficients == pytest.approx([math.log(1 / 2), math.log(3)], abs=1e-5)
    assert found.covariance[0, 0] == pytest.approx(1 / 10 + 1 / 20, rel=1e-5)
    assert found.covariance[1, 1] == pytest.approx(1 / 10 + 1 / 20 + 1 / 24 + 1 / 16, rel=1e-5)
    expected = 10 * math.log(1 / 3) + 20 * math.log(2 / 3) + 24 * math.log(0.6) + 16 * math.log(0.4)
    assert found.log_likelihood == pytest.approx(expected) and not found.separated


def test_survival_without_a_slope_is_the_hazard_of_the_share():
    """With t = 1 throughout, exp(-lambda) is the share of successes."""
    found = fit(np.ones((20, 1)), np.repeat([1, 0], [15, 5]), "survival")
    assert math.exp(found.coefficients[0]) == pytest.approx(-math.log(0.75), rel=1e-4)


@pytest.mark.parametrize("link", ["logit", "survival"])
def test_the_maximum_is_flat_and_its_curvature_is_the_covariance(link):
    generator = np.random.default_rng(1)
    design = np.column_stack([np.ones(3000), generator.normal(size=3000)])
    success = (generator.random(3000) < 0.4).astype(float)
    weight = generator.uniform(0.5, 2, 3000)
    found = fit(design, success, link, weight)

    def at(a, b):
        beta = found.coefficients + np.array([a, b])
        return log_likelihood(design, success, weight, beta, link)

    h = 1e-3
    assert [(at(h, 0) - at(-h, 0)) / (2 * h), (at(0, h) - at(0, -h)) / (2 * h)] == pytest.approx(
        [0, 0], abs=0.1
    )
    cross = (at(h, h) - at(h, -h) - at(-h, h) + at(-h, -h)) / (4 * h * h)
    curvature = -np.array(
        [
            [(at(h, 0) - 2 * at(0, 0) + at(-h, 0)) / h**2, cross],
            [cross, (at(0, h) - 2 * at(0, 0) + at(0, -h)) / h**2],
        ]
    )
    assert np.linalg.inv(curvature) == pytest.approx(found.covariance, rel=0.1, abs=3e-5)


def test_a_weight_is_a_repetition_and_a_tie_is_half_of_each():
    design, success = two_by_two()
    doubled = fit(np.repeat(design, 2, axis=0), np.repeat(success, 2))
    weighted = fit(design, success, weight=np.full(70, 2.0))
    assert weighted.coefficients == pytest.approx(doubled.coefficients, abs=1e-6)
    assert weighted.covariance == pytest.approx(doubled.covariance, rel=1e-5)
    ties = fit(np.ones((4, 1)), np.array([0.5, 0.5, 1, 1]))
    assert ties.coefficients[0] == pytest.approx(math.log(3), abs=1e-5)


def test_copies_within_a_cluster_teach_nothing_new():
    """Each row four times over, one cluster per row: naive variances shrink by 4, the sandwich's do not."""
    design, success = two_by_two()
    copied, outcome = np.repeat(design, 4, axis=0), np.repeat(success, 4)
    naive = fit(copied, outcome)
    robust = fit(copied, outcome, clusters=np.repeat(np.arange(70), 4))
    alone = fit(design, success, clusters=np.arange(70))
    assert robust.covariance == pytest.approx(alone.covariance, rel=1e-4)
    assert robust.covariance[1, 1] > 3.5 * naive.covariance[1, 1]


def test_separation_is_noticed_and_nothing_overflows():
    x = np.array([1.0, 2, 3, 10, 11, 12])
    for link in ("logit", "survival"):
        found = fit(np.column_stack([np.ones(6), np.log(x)]), x < 5, link)
        assert found.separated and np.isfinite(found.coefficients).all()
        assert found.log_likelihood == pytest.approx(0, abs=1e-4)


def test_rare_failures_over_a_wide_range_are_no_separation():
    generator = np.random.default_rng(5)
    t = np.exp(generator.uniform(-6, 6, 400))
    success = generator.random(400) < np.exp(-t / 50)
    found = fit(np.column_stack([np.ones(400), np.log(t)]), success, "survival")
    assert not found.separated and found.coefficients[1] == pytest.approx(1, abs=0.3)
