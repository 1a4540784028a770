"""The parts of `recipes/overoptimisation.py`, and that the figures kept from it say what the page says."""

import importlib.util
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from rung.eval.overoptimisation import fit_overoptimisation, kl_of_best_of

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("overoptimisation", ROOT / "recipes" / "overoptimisation.py")
recipe = importlib.util.module_from_spec(spec)
sys.modules["overoptimisation"] = recipe  # dataclasses look their module up
spec.loader.exec_module(recipe)

KEPT = json.loads((ROOT / "benchmarks" / "results" / "overoptimisation.json").read_text())


@pytest.fixture(scope="module")
def worlds():
    return [recipe.World.drawn(seed, 4096) for seed in range(4)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_best_of_n_is_what_all_draws_say(n):
    proxy = np.array([0.3, -1.0, 2.0, 0.5, 0.1])
    expected = np.zeros(5)
    for draw in itertools.product(range(5), repeat=n):
        expected[max(draw, key=lambda answer: proxy[answer])] += 5.0**-n
    assert recipe.best_of(n, proxy) == pytest.approx(expected, abs=1e-15)
    assert recipe.best_of(n, proxy).sum() == pytest.approx(1)


@pytest.mark.parametrize("n", [1, 2, 16, 128])
def test_its_distance_is_that_of_a_continuous_proxy_where_answers_are_many(worlds, n):
    world = recipe.World.drawn(0, 1 << 16)
    distance, _, _ = world.standing(recipe.best_of(n, world.gold), world.gold)
    assert distance**2 == pytest.approx(math.log(n) - (n - 1) / n, abs=2e-3)
    assert distance**2 <= kl_of_best_of(n) + 1e-9
    few, _, _ = worlds[0].standing(recipe.best_of(n, worlds[0].gold), worlds[0].gold)
    assert few <= distance + 1e-9


def test_standing_at_the_start_and_at_a_single_answer(worlds):
    world, proxy = worlds[0], worlds[0].features[:, 0]
    assert world.standing(np.full(4096, 1 / 4096), proxy) == pytest.approx((0, 0, 0), abs=1e-7)
    only = np.zeros(4096)
    only[7] = 1
    expected = (math.log(4096) ** 0.5, world.gold[7] - world.gold.mean(), proxy[7] - proxy.mean())
    assert world.standing(only, proxy) == pytest.approx(expected)


def test_a_proxy_that_is_gold_never_falls(worlds):
    for world in worlds:
        gold = recipe.best_of_path(world, world.gold)[:, 1]
        assert (np.diff(gold) > 0).all()
        rounds = itertools.islice(recipe.reinforced(world, world.gold, seed=0), 10)
        distance, gold, _ = np.array([world.standing(chance, world.gold) for chance in rounds]).T
        assert gold[0] == pytest.approx(0) and (np.diff(gold) > 0).all()
        # near the start the best there is at distance d is tilting by gold: sqrt(2) d times gold's deviation
        assert gold[-1] == pytest.approx(2**0.5 * distance[-1] * world.gold.std(), rel=0.15)


def test_a_proxy_of_many_labels_is_gold_and_of_few_is_not(worlds):
    world = worlds[0]
    many, few = (recipe.fitted_proxy(world, labels, seed=0) for labels in (30_000, 30))
    gap_many, gap_gold = many - many.mean(), world.gold - world.gold.mean()
    assert gap_many @ gap_gold / (gap_gold @ gap_gold) == pytest.approx(
        1, abs=0.05
    )  # in nats, as it was asked
    assert np.corrcoef(many, world.gold)[0, 1] > 0.99 > 0.9 > np.corrcoef(few, world.gold)[0, 1] > 0.3


def test_without_a_label_that_tells_the_prior_decides(worlds, monkeypatch):
    """One preference between x and y moves the weights along their gap g, by a where a = sigmoid(-a |g|^2)."""
    proxy = recipe.fitted_proxy(worlds[0], 1, seed=0)
    weight = np.linalg.lstsq(worlds[0].features, proxy, rcond=None)[0]
    i, j = np.random.default_rng((0, 1)).integers(0, 4096, (1, 2))[0]
    gap = worlds[0].features[i] - worlds[0].features[j]
    along = weight @ gap / (gap @ gap)
    assert weight == pytest.approx(along * gap, abs=1e-6)
    assert abs(along) == pytest.approx(1 / (1 + math.exp(abs(along) * (gap @ gap))), rel=1e-3)


def test_pushed_on_a_poor_proxy_gold_rises_and_falls_both_ways(worlds, monkeypatch):
    monkeypatch.setattr(recipe, "FARTHEST", kl_of_best_of(512))
    monkeypatch.setattr(recipe, "SIZES", tuple(2**k for k in range(10)))
    proxies = [recipe.fitted_proxy(world, 30, seed) for seed, world in enumerate(worlds)]
    pushed = {
        "best-of-n": [recipe.best_of_path(*both) for both in zip(worlds, proxies, strict=True)],
        "rl": [
            recipe.rl_path(world, proxy, seed)
            for seed, (world, proxy) in enumerate(zip(worlds, proxies, strict=True))
        ],
    }
    for form, found in pushed.items():
        paths = np.array(found)
        distance, gold, said = paths.mean(0).T
        assert distance[0] == 0 and distance[-1] == pytest.approx(kl_of_best_of(512) ** 0.5, abs=0.1)
        assert (np.diff(said) > 0).all()  # the proxy sees nothing of it
        fit = fit_overoptimisation(list(distance**2), list(gold), form)
        row = recipe.summary(30, paths, fit)
        assert row["peak_seen"] and 0 < row["peak_measured"] < 0.8 * row["distance_at_end"]
        assert row["gold_at_end"] == gold[-1] < gold.max() - 0.05 and row["gold_at_peak"] == gold.max() > 0.1
        falls = paths[:, gold.argmax(), 1] - paths[:, -1, 1]
        assert row["fall_error"] == pytest.approx(np.std(falls, ddof=1) / 2)


def test_rl_that_does_not_get_there_is_an_error(worlds, monkeypatch):
    monkeypatch.setattr(recipe, "MOST_ROUNDS", 2)
    with pytest.raises(RuntimeError, match="after 2 rounds"):
        recipe.rl_path(worlds[0], worlds[0].gold, 0)


@pytest.mark.parametrize("form", ["best-of-n", "rl"])
def test_what_was_kept_is_an_inverted_u_that_peaks_later_with_more_labels(form):
    rows = [row for row in KEPT if row["form"] == form]
    assert [row["labels"] for row in rows] == list(recipe.LABELS)
    for row in rows:
        assert row["peak_seen"] and row["r_squared"] > 0.95
        assert 0 < row["peak_measured"] < 0.8 * row["distance_at_end"]
        assert row["gold_at_end"] < row["gold_at_peak"] - 2 * row["fall_error"]
    assert sorted(rows, key=lambda row: row["peak_of_fit"]) == rows
    assert sorted(rows, key=lambda row: row["gold_at_peak"]) == rows
