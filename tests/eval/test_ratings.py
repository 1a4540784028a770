"""Win rates and Bradley-Terry: closed forms, the MM iteration, simulation, and what must be refused."""

import math

import numpy as np
import pytest

from rung.errors import UserError
from rung.eval.intervals import wilson
from rung.eval.ratings import Game, bradley_terry, length_controlled, win_rate


def games(first, second, wins, losses, ties=0, start=0):
    outcomes = [1.0] * wins + [0.0] * losses + [0.5] * ties
    return [Game(first, second, o, f"p:{start + i}") for i, o in enumerate(outcomes)]


def test_a_tie_is_half_a_win_from_either_side():
    played = games("a", "b", 6, 3, 1)
    assert win_rate(played, "a").value == pytest.approx(0.65)
    assert win_rate(played, "b").value == pytest.approx(0.35)
    assert (win_rate(played, "a").low, win_rate(played, "a").high) == wilson(6.5, 10)


def test_judging_a_prompt_in_both_orders_is_one_prompt():
    once = games("a", "b", 30, 20)
    twice = once + [Game("b", "a", 1 - g.outcome, g.prompt) for g in once]
    assert win_rate(twice, "a").value == pytest.approx(0.6)
    width = [w.high - w.low for w in (win_rate(once, "a"), win_rate(twice, "a"))]
    assert width[1] == pytest.approx(width[0], rel=0.1)


def test_two_models_have_a_closed_form():
    found = bradley_terry(games("a", "b", 30, 10))
    assert found.values == pytest.approx([math.log(3) / 2, -math.log(3) / 2], abs=1e-5)
    assert found.beats("a", "b").value == pytest.approx(0.75)
    elo = found.elo()
    assert list(elo) == ["a", "b"] and elo["a"].value - elo["b"].value == pytest.approx(400 * math.log10(3))
    # one cluster per game: the sandwich is the binomial variance, times 40/39
    spread = math.sqrt(40 / 39 / (40 * 0.75 * 0.25))
    low = 1 / (1 + math.exp(-(math.log(3) - 1.96 * spread)))
    assert found.beats("a", "b").low == pytest.approx(low, abs=1e-4)


def minorise_maximise(played, rounds=3000):
    """Zermelo's iteration, an independent way to the same maximum; ties are half a win each."""
    names = sorted({n for g in played for n in (g.first, g.second)})
    strength = dict.fromkeys(names, 1.0)
    for _ in range(rounds):
        new = {}
        for name in names:
            mine = [g for g in played if name in (g.first, g.second)]
            won = sum(g.outcome if g.first == name else 1 - g.outcome for g in mine)
            new[name] = won / sum(1 / (strength[g.first] + strength[g.second]) for g in mine)
        mean = math.exp(sum(math.log(v) for v in new.values()) / len(new))
        strength = {name: v / mean for name, v in new.items()}
    return [math.log(strength[name]) for name in names]


def test_newton_and_mm_find_the_same_ratings_with_ties_and_missing_pairs():
    played = (
        games("a", "b", 7, 4, 2) + games("b", "c", 5, 6, 1) + games("c", "d", 9, 3) + games("a", "d", 2, 1)
    )
    assert bradley_terry(played).values == pytest.approx(minorise_maximise(played), abs=1e-4)


def test_the_difference_of_two_ratings_covers_its_truth():
    truth = np.array([0.8, 0.2, -1.0])
    generator = np.random.default_rng(3)
    inside = 0
    for _ in range(150):
        played = []
        for prompt in range(60):
            for i, j in ((0, 1), (1, 2), (0, 2)):
                won = generator.random() < 1 / (1 + math.exp(truth[j] - truth[i]))
                played.append(Game("abc"[i], "abc"[j], float(won), f"p:{prompt}"))
        found = bradley_terry(played).beats("a", "c")
        inside += found.low <= 1 / (1 + math.exp(-1.8)) <= found.high
    assert 0.89 <= inside / 150 <= 0.99


def test_games_about_one_prompt_are_not_independent():
    played = games("a", "b", 12, 8)
    copied = [game for game in played for _ in range(9)]
    alone, many = bradley_terry(played).beats("a", "b"), bradley_terry(copied).beats("a", "b")
    assert many.high - many.low == pytest.approx(alone.high - alone.low, rel=0.01)


def test_models_that_never_met_are_refused_by_name():
    with pytest.raises(UserError, match="c, d and a are not connected"):
        bradley_terry(games("a", "b", 2, 2) + games("c", "d", 2, 2))


def test_a_model_that_always_lost_is_refused_by_name():
    with pytest.raises(UserError, match=r"c never took half a point from a, b"):
        bradley_terry(games("a", "b", 2, 2) + games("a", "c", 5, 0) + games("b", "c", 3, 0))
    bradley_terry(games("a", "b", 2, 2) + games("a", "c", 5, 0) + games("b", "c", 3, 0, 1))  # a tie suffices,
    bradley_terry(
        games("a", "b", 2, 2) + games("a", "c", 5, 0) + games("c", "b", 0, 3, 1)
    )  # from either side


def test_impossible_tables_are_refused():
    with pytest.raises(UserError, match="at least two"):
        bradley_terry([])
    with pytest.raises(UserError, match="played no game"):
        win_rate(games("a", "b", 1, 1), "z")
    with pytest.raises(UserError, match="against itself"):
        bradley_terry([*games("a", "b", 1, 1), Game("a", "a", 1.0, "p")])


def judged(generator, theta, phi, count=3000, longer=100.0):
    """Wins by sigma(theta + phi tanh(gap / std)); the model writes about `longer` characters more."""
    gaps = generator.normal(longer, 100, count)
    chance = 1 / (1 + np.exp(-(theta + phi * np.tanh(gaps / gaps.std()))))
    won = (generator.random(count) < chance).astype(float)
    return [
        Game("m", "base", w, f"p:{i}", 500 + g, 500) for i, (w, g) in enumerate(zip(won, gaps, strict=True))
    ]


def test_length_control_takes_the_length_out_and_leaves_the_rest():
    generator = np.random.default_rng(6)
    found = length_controlled(judged(generator, theta=0.0, phi=1.2), "m")
    assert found.raw.low > 0.6 and found.controlled.low <= 0.5 <= found.controlled.high
    assert found.length_effect.low <= 1.2 <= found.length_effect.high


def test_length_control_covers_both_of_its_parameters():
    theta, phi, studies = 0.7, 0.4, 100
    hits = np.zeros(2)
    for seed in range(studies):
        found = length_controlled(judged(np.random.default_rng(seed), theta, phi, count=400), "m")
        hits[0] += found.controlled.low <= 1 / (1 + math.exp(-theta)) <= found.controlled.high
        hits[1] += found.length_effect.low <= phi <= found.length_effect.high
    assert (hits >= 0.88 * studies).all() and (hits < studies).all()


def test_length_control_does_not_care_who_was_shown_first():
    generator = np.random.default_rng(8)
    played = judged(generator, 0.3, 0.8, count=400)
    turned = [Game("base", "m", 1 - g.outcome, g.prompt, g.second_length, g.first_length) for g in played]
    there, back = length_controlled(played, "m"), length_controlled(turned, "m")
    assert there.controlled.value == pytest.approx(back.controlled.value, abs=1e-6)
    mixed = length_controlled([(played, turned)[i % 2][i] for i in range(400)], "m")
    assert mixed.controlled.value == pytest.approx(there.controlled.value, abs=1e-6)
    other = length_controlled(played, "base")
    assert other.controlled.value == pytest.approx(1 - there.controlled.value, abs=1e-6)


def test_length_control_refuses_what_it_cannot_tell_apart():
    flat = [Game("m", "b", float(i % 2), f"p:{i}", 10, 10) for i in range(20)]
    with pytest.raises(UserError, match="lengths differ"):
        length_controlled(flat, "m")
    sorted_out = [Game("m", "b", float(i > 9), f"p:{i}", 10 + i, 20) for i in range(20)]
    with pytest.raises(UserError, match="cannot be told apart"):
        length_controlled(sorted_out, "m")
