"""pass@k, maj@k and best-of-n against every subset written out."""

from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.eval.passk import best_of, curve, majority_at, pass_at, pass_curve


def over_subsets(samples, k, worth):
    """The mean of `worth` over every subset of k samples: the definition, with nothing clever."""
    values = [worth([samples[i] for i in chosen]) for chosen in combinations(range(len(samples)), k)]
    return sum(values) / len(values)


def test_pass_at_k_on_the_whole_grid_up_to_nine_samples():
    for n in range(1, 10):
        for c in range(n + 1):
            found = pass_at(n, c)
            expected = [over_subsets([1] * c + [0] * (n - c), k, max) for k in range(1, n + 1)]
            assert found == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_by_hand():
    """Two of four right: one wrong pair out of six pairs."""
    assert pass_at(4, 2).tolist() == pytest.approx([1 / 2, 5 / 6, 1, 1])


def test_pass_at_k_stays_exact_where_binomials_overflow_floats():
    found = pass_at(4000, 3)
    exact = 1 - comb(3997, 1500) / comb(4000, 1500)  # integers divide without overflow
    assert found[1499] == pytest.approx(exact, rel=1e-10)
    assert found[0] == pytest.approx(3 / 4000)


def test_pass_at_k_is_unbiased_and_the_plug_in_is_not():
    """Averaged over c ~ Binomial(n, p), pass@k is 1 - (1 - p)^k; 1 - (1 - c/n)^k falls short."""
    n, k, p = 8, 5, 0.2
    chance = [comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    unbiased = sum(w * pass_at(n, c)[k - 1] for c, w in enumerate(chance))
    plugged = sum(w * (1 - (1 - c / n) ** k) for c, w in enumerate(chance))
    assert unbiased == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    assert plugged < unbiased - 0.03


@pytest.mark.parametrize(("n", "c"), [(0, 0), (3, 4), (3, -1)])
def test_impossible_counts_are_refused(n, c):
    with pytest.raises(ValueError, match="impossible"):
        pass_at(n, c)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), min_size=1, max_size=8),
)
def test_best_of_n_is_the_mean_over_subsets_with_ties_drawn_at_random(samples):
    def worth(chosen):
        top = max(proxy for proxy, _ in chosen)
        return np.mean([value for proxy, value in chosen if proxy == top])

    found = best_of([p for p, _ in samples], [v for _, v in samples])
    expected = [over_subsets(samples, k, worth) for k in range(1, len(samples) + 1)]
    assert found == pytest.approx(expected, abs=1e-9)


def test_best_of_n_by_its_own_value_is_the_expected_maximum():
    """Of 1..N without repetition the expected maximum of k is k (N + 1) / (k + 1)."""
    found = best_of(range(1, 21), range(1, 21))
    assert found == pytest.approx([k * 21 / (k + 1) for k in range(1, 21)])


def test_best_of_n_over_rewards_of_zero_and_one_is_pass_at_k():
    rewards = [0, 1, 0, 0, 1, 0]
    assert best_of(rewards, rewards) == pytest.approx(pass_at(6, 2))


def test_best_of_n_over_many_samples_is_finite_and_exact():
    found = best_of(range(2000), range(2000))
    assert found[-1] == pytest.approx(1999) and found[999] == pytest.approx(1000 * 2001 / 1001 - 1)


def test_best_of_n_needs_a_finite_proxy_for_every_value():
    for proxy, value in (([1.0], [1.0, 2.0]), ([float("nan")], [1.0]), ([], [])):
        with pytest.raises(ValueError, match="finite proxy"):
            best_of(proxy, value)


def elected(chosen):
    """The share of the vote's winners that are right; blanks (None) elect nobody."""
    counts = Counter(answer for answer in chosen if answer is not None)
    if not counts:
        return 0.0
    winners = [answer for answer, n in counts.items() if n == max(counts.values())]
    return sum(answer in RIGHT for answer in winners) / len(winners)


RIGHT = {0, 3}  # two forms of the right answer do not pool their votes


@settings(max_examples=80)
@given(st.lists(st.sampled_from([0, 1, 2, 3, 4, None]), min_size=1, max_size=9))
def test_majority_is_the_mean_over_subsets(samples):
    counts = Counter(answer for answer in samples if answer is not None)
    found = majority_at(list(counts.values()), [answer in RIGHT for answer in counts], samples.count(None))
    expected = [over_subsets(samples, k, elected) for k in range(1, len(samples) + 1)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_majority_by_hand():
    """Right twice, wrong once: pairs are RR, RW, RW; a tie counts one half. All three: right wins."""
    assert majority_at([2, 1], [True, False]).tolist() == pytest.approx([2 / 3, (1 + 0.5 + 0.5) / 3, 1])
    assert majority_at([1], [True], blank=1).tolist() == pytest.approx([1 / 2, 1])
    assert majority_at([], [], blank=2).tolist() == [0, 0]


def test_a_wrong_majority_loses_with_more_votes_while_pass_rises():
    found = majority_at([40, 60], [True, False])
    assert found[0] == pytest.approx(0.4) and found[98] < 0.01 < 0.4 < pass_at(100, 40)[98]


def test_majority_at_one_is_the_share_of_right_samples_even_of_256():
    votes = [30, 25, 20, 11] + [1] * 170
    found = majority_at(votes, [True] + [False] * 173)
    assert found[0] == pytest.approx(30 / 256) and found[-1] == 1.0


def test_a_curve_is_the_mean_over_problems_and_its_band_holds_it():
    found = pass_curve([4, 4, 4, 4], [0, 1, 2, 4])
    assert found.value.tolist() == pytest.approx([7 / 16, (0 + 1 / 2 + 5 / 6 + 1) / 4, 11 / 16, 3 / 4])
    assert (found.low <= found.value).all() and (found.value <= found.high).all()
    assert (found.problems, found.left_out, found.k.tolist()) == (4, 0, [1, 2, 3, 4])


def test_problems_with_too_few_scored_attempts_are_counted_and_never_zero():
    found = pass_curve([4, 0, 2, 4], [4, 0, 2, 4], most=4)
    assert found.value.tolist() == [1, 1, 1, 1] and (found.problems, found.left_out) == (2, 2)
    assert len(pass_curve([4, 0, 2, 4], [4, 0, 2, 4]).k) == 2
    with pytest.raises(ValueError, match="no problem has 5"):
        pass_curve([4], [4], most=5)
    with pytest.raises(ValueError, match="no attempt was scored"):
        pass_curve([0, 0], [0, 0])


def test_a_perfect_score_keeps_an_honest_band():
    found = curve(np.ones((10, 3)))
    assert found.low == pytest.approx([0.7225] * 3, abs=1e-3) and (found.high == 1).all()
    found = curve(np.zeros((10, 3)))
    assert found.high == pytest.approx([1 - 0.7225] * 3, abs=1e-3) and (found.low == 0).all()


def test_the_band_covers_the_truth():
    """Problems with p ~ Beta(1, 3), 8 attempts: pass@4 is 1 - E(1-p)^4 = 1 - 3/7. 200 studies of 40 problems."""
    generator = np.random.default_rng(7)
    hits = 0
    for study in range(200):
        right = generator.binomial(8, generator.beta(1, 3, 40))
        values = np.stack([pass_at(8, c) for c in right])
        band = curve(values, draws=300, seed=study)
        hits += band.low[3] <= 4 / 7 <= band.high[3]
    assert 0.90 <= hits / 200 <= 0.99
