"""Over-optimisation fits: both forms recovered, peaks by calculus and by brute force, a synthetic proxy."""

import math

import numpy as np
import pytest

from rung.errors import UserError
from rung.eval.overoptimisation import fit_overoptimisation, kl_of_best_of
from rung.eval.passk import best_of


def test_the_kl_of_best_of_n():
    assert kl_of_best_of(1) == 0 and kl_of_best_of(4) == pytest.approx(math.log(4) - 3 / 4)
    # the density of the best of n uniform draws is n u^(n-1); its KL by quadrature
    u = (np.arange(200_000) + 0.5) / 200_000
    density = 6 * u**5
    assert kl_of_best_of(6) == pytest.approx(np.mean(density * np.log(density)), abs=1e-6)


@pytest.mark.parametrize("form", ["best-of-n", "rl"])
def test_both_forms_are_recovered_with_their_peak(form):
    d = np.linspace(0, 6, 30)
    bent = d if form == "best-of-n" else np.log(np.maximum(d, 1e-300))
    found = fit_overoptimisation(d**2, d * (1.5 - 0.5 * bent), form)
    assert (found.alpha, found.beta, found.r_squared) == pytest.approx((1.5, 0.5, 1))
    fine = np.linspace(0.001, 20, 200_001)
    curve = fine * (1.5 - 0.5 * (fine if form == "best-of-n" else np.log(fine)))
    assert found.peak == pytest.approx(fine[curve.argmax()], abs=2e-4)
    assert found.at(2.0) == pytest.approx(2 * (1.5 - 0.5 * (2 if form == "best-of-n" else math.log(2))))
    assert found.peak_seen == (found.peak < 6)


def test_a_peak_beyond_the_data_is_not_called_seen():
    d = np.linspace(0, 2, 12)
    found = fit_overoptimisation(d**2, d * (3 - 0.1 * d), "best-of-n")
    assert found.peak == pytest.approx(15) and not found.peak_seen
    rising = fit_overoptimisation(d**2, d * (1 + 0.1 * d), "best-of-n")
    assert rising.peak == math.inf and not rising.peak_seen


def test_a_noisy_proxy_rises_then_falls_and_a_better_one_peaks_later():
    """Gold g, proxy g + heavy-tailed error that hurts where it is large: best-of-n finds the error."""

    def gold_of_best(noise):
        generator = np.random.default_rng(0)
        rows = []
        for _ in range(60):
            gold, error = generator.normal(size=500), noise * generator.standard_t(3, 500)
            rows.append(best_of(gold + error, gold - 0.15 * error**2))
        return np.mean(rows, 0)

    n = np.unique(np.geomspace(1, 500, 25).astype(int))
    kl = [kl_of_best_of(int(k)) for k in n]
    curves = {noise: gold_of_best(noise) for noise in (0.5, 0.9)}
    found = {noise: fit_overoptimisation(kl, g[n - 1] - g[0], "best-of-n") for noise, g in curves.items()}
    assert found[0.9].peak_seen and found[0.5].peak > found[0.9].peak
    assert found[0.5].r_squared > 0.8


def test_too_few_distances_are_refused():
    with pytest.raises(UserError, match="at least 4"):
        fit_overoptimisation([0, 1, 1, 2], [0, 1, 1, 1], "rl")
