"""Model collapse in closed form, by enumeration and by simulation; the test that sees a lost tail."""

import itertools
from math import comb

import numpy as np
import pytest

from rung.eval.tails import Lost, different, entries, homozygosity, lost, missing, refitted, where_it_ends

ZIPF = (weights := 1 / np.arange(1, 101)) / weights.sum()


def one_step_by_enumeration(p: float, q: float, own: int, fresh: int) -> float:
    """E[sum of squares] after one refit of a coin that is p now and was q at first: every outcome, weighed."""
    total = 0.0
    for a, b in itertools.product(range(own + 1), range(fresh + 1)):
        chance = comb(own, a) * p**a * (1 - p) ** (own - a) * comb(fresh, b) * q**b * (1 - q) ** (fresh - b)
        heads = (a + b) / (own + fresh)
        total += chance * (heads**2 + (1 - heads) ** 2)
    return total


@pytest.mark.parametrize(("own", "fresh"), [(5, 0), (4, 1), (3, 3), (0, 4), (1, 2)])
def test_one_generation_is_the_enumerated_expectation(own, fresh):
    q = 0.3
    start = q**2 + (1 - q) ** 2
    assert homozygosity(start, own, fresh, 1)[1] == pytest.approx(
        one_step_by_enumeration(q, q, own, fresh), abs=1e-14
    )


def test_two_generations_are_the_enumerated_expectation():
    """The second refit starts from whatever the first gave: sum over all of them."""
    own, fresh, q = 3, 2, 0.3
    total = 0.0
    for a, b in itertools.product(range(own + 1), range(fresh + 1)):
        chance = comb(own, a) * q**a * (1 - q) ** (own - a) * comb(fresh, b) * q**b * (1 - q) ** (fresh - b)
        total += chance * one_step_by_enumeration((a + b) / (own + fresh), q, own, fresh)
    assert homozygosity(q**2 + (1 - q) ** 2, own, fresh, 2)[2] == pytest.approx(total, abs=1e-14)


def test_without_fresh_samples_it_is_the_classic_decay_and_ends_in_one_symbol():
    path = homozygosity(0.2, 50, 0, 40)
    assert np.allclose(1 - path, 0.8 * (1 - 1 / 50) ** np.arange(41), rtol=1e-12)
    assert where_it_ends(0.2, 50, 0) == pytest.approx(1)


@pytest.mark.parametrize(("own", "fresh"), [(45, 5), (25, 25), (0, 50)])
def test_with_fresh_samples_it_stays_where_the_fixed_point_says(own, fresh):
    path = homozygosity(0.2, own, fresh, 5000)
    assert path[-1] == pytest.approx(where_it_ends(0.2, own, fresh)) and path[-1] < 0.5


def test_simulated_collapse_follows_the_closed_form_and_a_tenth_of_real_data_stops_it():
    """Zipf over 100 symbols, 200 samples a generation, 60 generations, 60 runs."""
    start = float((ZIPF**2).sum())
    ends = {}
    for fresh in (0, 20):
        runs = np.array([refitted(ZIPF, 200 - fresh, fresh, 60, seed) for seed in range(60)])
        squares = (runs**2).sum(-1)  # [runs, generations + 1]
        expected = homozygosity(start, 200 - fresh, fresh, 60)
        error = squares.std(0) / np.sqrt(len(runs))
        assert (np.abs(squares.mean(0) - expected)[1:] < 4.5 * error[1:]).all()
        ends[fresh] = (runs[:, -1] > 0).sum(-1).mean()
    assert ends[0] < 10 < 30 < ends[20]  # symbols left


def test_what_is_lost_in_one_generation():
    runs = np.array([refitted(ZIPF, 200, 0, 1, seed)[1] for seed in range(2000)])
    share = (runs == 0).mean(0)
    expected = missing(ZIPF, 200)
    assert np.all(np.abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / 2000) + 1e-9)
    assert missing(0.5, 3) == 0.125


def test_what_is_gone_stays_gone_without_fresh_samples_only():
    alone = refitted(ZIPF, 50, 0, 20, 0) > 0
    assert all((later <= earlier).all() for earlier, later in itertools.pairwise(alone))
    mixed = refitted(ZIPF, 45, 5, 20, 0) > 0
    assert any((later > earlier).any() for earlier, later in itertools.pairwise(mixed))


# ---- the test on texts ----


def texts(distribution, count, words, seed) -> list[str]:
    generator = np.random.default_rng(seed)
    return [
        " ".join(f"w{i}" for i in generator.choice(len(distribution), words, p=distribution))
        for _ in range(count)
    ]


def test_swaps_by_hand():
    kinds, tasks, sides = entries([({"a", "b"}, {"a"}), ({"c"}, {"a"})])
    for swap, expected in (([0, 0], (3, 1)), ([1, 0], (2, 2)), ([1, 1], (1, 3)), ([0, 1], (2, 2))):
        assert different(kinds, sides ^ np.array(swap, bool)[tasks]) == expected


def test_counts_by_hand_and_at_equal_length():
    found = lost(["a b c d", "x y"], ["a b", "x y z w"], n=1, draws=9)
    assert (found.before, found.now, found.share) == (4, 4, 0.0)
    assert Lost(10, 8, 0.5).share == pytest.approx(0.2) and Lost(0, 0, 1.0).share == 0


def test_the_level_holds_where_nothing_changed():
    p = [lost(texts(ZIPF, 20, 10, s), texts(ZIPF, 20, 10, s + 1000), 1, 99, s).p_value for s in range(200)]
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    assert 0.35 < np.mean(np.array(p) <= 0.5) < 0.65


def test_the_guard_sees_the_collapse_and_not_the_mixture():
    """Refitted a hundred times to a thousand samples: alone, and with half of them fresh."""
    before = texts(ZIPF, 40, 25, 1)
    ends = [refitted(ZIPF, 1000 - fresh, fresh, 100, 1)[-1] for fresh in (0, 500)]
    alone, mixed = (lost(before, texts(end, 40, 25, 2), n=1) for end in ends)
    assert alone.share > 0.7 and alone.p_value == 0.001
    assert mixed.share < 0.1  # 94 of 100 symbols is where half fresh data holds it, by simulation


def test_unequal_numbers_of_answers_are_refused():
    with pytest.raises(ValueError, match="1 answers then and 2 now"):
        lost(["a"], ["a", "b"])
