"""Paired comparisons: exact tests by enumeration, intervals by simulation."""

from itertools import product

import numpy as np
import pytest

from rung.errors import UserError
from rung.eval.intervals import wilson
from rung.eval.paired import compare, holm, newcombe, sign_flip, sign_test


def scores(values):
    return {f"t:{i}": [float(v)] for i, v in enumerate(values)}


def test_the_sign_test_by_hand():
    assert sign_test(5, 0) == 2 / 32
    assert sign_test(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert sign_test(0, 0) == 1.0 and sign_test(3, 3) == 1.0
    assert sign_test(2, 8) == sign_test(8, 2)
    assert sign_test(500, 300) < 1e-11


def test_sign_flip_against_every_pattern_of_signs():
    differences = np.array([0.5, -0.25, 0.75, 0.1, 0, 0.3])
    seen = abs(differences.sum())
    patterns = [abs(np.dot(s, differences)) >= seen - 1e-12 for s in product((-1, 1), repeat=6)]
    assert sign_flip(differences) == pytest.approx(np.mean(patterns))
    assert sign_flip(np.zeros(4)) == 1.0


def test_drawn_sign_flips_agree_with_the_exact_test_on_equal_differences():
    """With equal sizes the statistic is the number of wins, whose law is binomial."""
    differences = np.array([0.5] * 21 + [-0.5] * 9)
    assert sign_flip(differences) == pytest.approx(sign_test(21, 9), abs=0.008)
    assert sign_flip(np.ones(60)) == 1 / 10_001


def test_mcnemar_looks_at_the_tasks_that_differ_and_only_at_them():
    base, other = [1] * 50 + [0] * 50 + [0] * 8 + [1] * 2, [1] * 50 + [0] * 50 + [1] * 8 + [0] * 2
    found = compare(scores(base), scores(other))
    assert found.test == "McNemar exact" and found.p == sign_test(8, 2)
    assert (found.wins, found.losses, found.tasks, found.left_out) == (8, 2, 110, 0)
    assert found.difference.value == pytest.approx(6 / 110)
    assert found.difference.low < 0.0546 < found.difference.high


def test_the_direction_is_other_minus_base_and_swapping_mirrors_everything():
    generator = np.random.default_rng(0)
    a = {f"t:{i}": list(generator.random(3)) for i in range(25)}
    b = {key: [v + 0.1 for v in values] for key, values in a.items()} | {"t:0": [0.0]}
    there, back = compare(a, b), compare(b, a)
    assert there.difference.value == pytest.approx(-back.difference.value) and there.difference.value > 0
    assert (there.p, there.wins, there.losses) == (back.p, back.losses, back.wins)


def test_pairing_sees_what_bare_means_hide():
    """Difficulty varies by task from 0 to 1; the second model is 0.03 better on nearly every one."""
    generator = np.random.default_rng(2)
    difficulty = generator.random(60)
    base = scores(difficulty)
    other = scores(difficulty + 0.03 + generator.normal(0, 0.02, 60))
    found = compare(base, other)
    unpaired = 1.96 * difficulty.std() * np.sqrt(2 / 60)
    assert found.p < 0.001 and found.difference.low > 0.02
    assert unpaired > 3 * found.difference.value  # two intervals of the bare means overlap by far


def test_many_attempts_at_few_tasks_are_few_tasks():
    """Five tasks, a hundred attempts each: the smallest p that five signs allow is 2/32."""
    base = {f"t:{i}": [0.0] * 100 for i in range(5)}
    other = {f"t:{i}": [1.0] * 60 + [0.0] * 40 for i in range(5)}
    found = compare(base, other)
    assert found.p == 2 / 32 and found.test == "sign flip"
    assert found.difference.low < 0.2 and found.difference.value == pytest.approx(0.6)


def test_tasks_without_a_scored_attempt_on_both_sides_are_left_out_and_counted():
    base = {"a": [1.0], "b": [0.0], "c": [], "d": [1.0]}
    other = {"a": [1.0], "b": [1.0], "c": [1.0], "e": [0.0]}
    found = compare(base, other)
    assert (found.tasks, found.left_out, found.difference.value) == (2, 3, 0.5)
    with pytest.raises(UserError, match="no scored task in common"):
        compare({"a": [1.0]}, {"b": [1.0]})


def test_no_difference_seen_is_not_no_difference():
    for repeat in (1, 4):
        same = {f"t:{i}": [1.0] * repeat for i in range(30)}
        found = compare(same, same)
        assert found.p == 1.0 and found.difference.value == 0
        assert found.difference.low < -0.05 and found.difference.high > 0.05
    loose = {f"t:{i}": [-3.0, 5.0] for i in range(30)}
    assert compare(loose, loose).difference.high == pytest.approx(8 * wilson(0, 30)[1])


def test_newcombe_at_its_limits():
    """Uncorrelated halves: the arms of two Wilson intervals add like the sides of a right angle."""
    found = newcombe(10, 10, 10, 10)
    arm = (wilson(20, 40)[1] - 0.5) * 2**0.5
    assert (found.low, found.value, found.high) == pytest.approx((-arm, 0, arm))
    assert newcombe(18, 2, 2, 18).high < arm / 1.5  # pairs that agree make it narrow
    perfect = newcombe(20, 0, 0, 0)
    assert (perfect.low, perfect.high) == pytest.approx((-wilson(0, 20)[1], wilson(0, 20)[1]))
    assert newcombe(5, 3, 7, 9).low == pytest.approx(-newcombe(5, 7, 3, 9).high)


@pytest.mark.parametrize("cells", [(0.5, 0.05, 0.15, 0.3), (0.9, 0.02, 0.04, 0.04), (0.2, 0.3, 0.3, 0.2)])
def test_newcombe_covers(cells):
    generator = np.random.default_rng(4)
    truth = cells[2] - cells[1]
    found = [newcombe(*map(int, generator.multinomial(60, cells))) for _ in range(1000)]
    assert 0.93 <= np.mean([f.low <= truth <= f.high for f in found]) <= 0.995


def test_the_clustered_comparison_holds_its_level_and_covers():
    """200 pairs of equal models, 30 tasks, 4 attempts: p < 0.05 in about one of twenty, zero inside mostly."""
    generator = np.random.default_rng(9)
    small, covered = 0, 0
    for study in range(200):
        chance = generator.beta(1, 1, 30)
        pair = [
            {str(i): list((generator.random(4) < p).astype(float)) for i, p in enumerate(chance)}
            for _ in "ab"
        ]
        difference = np.array([np.mean(pair[1][str(i)]) - np.mean(pair[0][str(i)]) for i in range(30)])
        small += sign_flip(difference, study) < 0.05
        if study < 60:
            found = compare(*pair, seed=study).difference
            covered += found.low <= 0 <= found.high
    assert 0.01 <= small / 200 <= 0.10
    assert covered / 60 >= 0.86


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_newcombe_by_hand():
    """40 both, 8 and 2 alone, 30 neither: phi = (40 * 30 - 8 * 2 - 80 / 2) / sqrt(48 * 32 * 42 * 38) = 0.7307."""
    (low1, high1), (low2, high2) = wilson(48, 80), wilson(42, 80)
    found, phi = newcombe(40, 8, 2, 30), 0.73066
    down, up = (0.525 - low2, high1 - 0.6), (high2 - 0.525, 0.6 - low1)
    arms = [(a * a - 2 * phi * a * b + b * b) ** 0.5 for a, b in (down, up)]
    assert (found.low, found.high) == pytest.approx((-0.075 - arms[0], -0.075 + arms[1]), abs=1e-5)
