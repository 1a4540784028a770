"""The bet is a fair game, so its wealth rarely multiplies by chance; it grows when the mean is too high."""

import itertools
import math

import numpy as np
import pytest

from rung.diagnose.evidence import Bet, divergence, lower_bound


def wealth(mean, rounds):
    bet = Bet(mean)
    for items in rounds:
        bet.update(items)
    return math.exp(bet.log_wealth())


def test_it_begins_with_one_and_a_round_without_items_changes_nothing():
    bet = Bet(0.3)
    assert bet.log_wealth() == pytest.approx(0)
    bet.update([0.0, 1.0])
    before = bet.log_wealth()
    assert bet.update([]) == before and bet.rounds == 1


def test_one_round_by_hand():
    """m = 1/2, one item 1: half the capital is in play, and a size c of 1/m wins c (1 - m)/m = c."""
    expected = 0.5 + 0.5 * np.mean([1 + c for c in (0.03, 0.1, 0.3, 0.6, 0.95)])
    assert wealth(0.5, [[1.0]]) == pytest.approx(expected)
    # then an item 0: a sixth of the capital joins, and everything in play is multiplied by 1 - c
    sizes = np.array([0.03, 0.1, 0.3, 0.6, 0.95])
    assert wealth(0.5, [[1.0], [0.0]]) == pytest.approx(
        1 / 3 + np.mean((0.5 * (1 + sizes) + 1 / 6) * (1 - sizes))
    )


@pytest.mark.parametrize("mean", [0.05, 0.5, 0.7])
def test_a_fair_game_exactly(mean):
    """Over all 2^6 outcomes of three rounds of two coins whose biases average to m in every round."""
    biases = [(mean, mean), (0.8 * mean, 1.2 * mean), (0.9 * mean, 1.1 * mean)]
    expectation = 0.0
    for coins in itertools.product([0.0, 1.0], repeat=6):
        rounds = [coins[0:2], coins[2:4], coins[4:6]]
        chance = 1.0
        for items, bias in zip(rounds, biases, strict=True):
            chance *= math.prod(p if x else 1 - p for x, p in zip(items, bias, strict=True))
        expectation += chance * wealth(mean, rounds)
    assert expectation <= 1 + 1e-12
    assert expectation == pytest.approx(
        1, abs=0.02
    )  # fair but for the second and third round's unequal coins


def test_false_alarms_over_whole_runs_stay_below_the_level():
    """200 runs of 250 rounds at the very edge of the null, looked at after every round."""
    rng, alpha, alarms = np.random.default_rng(0), 0.1, 0
    for _ in range(200):
        bet = Bet(0.3)
        highest = max(bet.update(items) for items in (rng.random((250, 4)) < 0.3).astype(float))
        alarms += highest >= math.log(1 / alpha)
    assert alarms <= 0.1 * 200  # about 3 % in truth: the bound has room


def test_trouble_after_a_long_healthy_time_is_seen_soon():
    rng = np.random.default_rng(1)
    bet = Bet(0.3)
    for items in (rng.random((2000, 16)) < 0.1).astype(float):
        bet.update(items)
    assert bet.log_wealth() < 0
    rounds = 0
    while bet.log_wealth() < math.log(1000):
        bet.update((rng.random(16) < 0.8).astype(float))
        rounds += 1
    assert (
        rounds <= 4
    )  # 16 items carry 16 kl(0.8 || 0.3) = 8.5 nats, and log(2000 * 2001) = 15.2 are to be paid


@pytest.mark.parametrize("mean", [0.0, 1.0, -0.1])
def test_a_mean_nobody_can_bet_on(mean):
    with pytest.raises(ValueError, match="must lie between"):
        Bet(mean)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("count", [8, 100])
def test_the_lower_bound_fails_no_oftener_than_it_says(p, count):
    risk = 0.01
    failing = sum(
        math.comb(count, k) * p**k * (1 - p) ** (count - k)
        for k in range(count + 1)
        if lower_bound(k / count, count, risk) > p
    )
    assert failing <= risk


def test_the_lower_bound_by_hand():
    assert lower_bound(1.0, 10, math.exp(-1)) == pytest.approx(math.exp(-0.1))  # kl(1 || p) = -log p
    assert lower_bound(0.0, 10, 0.01) == 0
    bound = lower_bound(0.5, 200, 0.003)
    assert 200 * divergence(0.5, bound) == pytest.approx(-math.log(0.003))
    assert divergence(0.5, 0.0) == math.inf and divergence(0.0, 0.0) == 0
