"""What moves from round to round, by hand: the multiplier over a window of answers, the KL that steers beta."""

from dataclasses import replace
from math import exp
from types import SimpleNamespace

import numpy as np
import pytest

from rung.advantages.recipes import RECIPES
from rung.rewards.score import Abstain, Score
from rung.settings_ppo import Cost, Kl
from rung.sources.adaptive import Adaptive, answer_kl

RECIPE = RECIPES["ppo"]


def answers(*costs):
    """None is an answer that could not be scored."""
    return [
        SimpleNamespace(verdict=Abstain("?") if cost is None else Score(0.0, {"cost": cost}))
        for cost in costs
    ]


def multipliers(rounds, **options):
    read: list[int] = []

    def once(round):
        read.append(round)
        return answers(*rounds[round])

    adaptive = Adaptive(Kl(), Cost("rm:c", **options), once)
    recipe = RECIPE_WITH_COST
    last = adaptive(len(rounds), recipe).multiplier
    found = [adaptive(n, recipe).multiplier for n in range(len(rounds) + 1)]
    assert found[-1] == last and read == list(range(len(rounds)))  # each round is read once
    return found


RECIPE_WITH_COST = replace(RECIPE, multiplier=1.0)


def test_the_multiplier_follows_the_mean_of_the_last_answers():
    """A window of 4, limit 0.5, rate 0.2: means 1 and 2, then 2 again, since nothing new could be scored."""
    options = {"episodes": 4, "limit": 0.5, "rate": 0.2, "largest": 2.0}
    first = exp(0.2 * 0.5)
    second = exp(0.2 * 0.5 + 0.2 * first * 1.5)
    found = multipliers([[1, 1, 1, 1], [3, None, 3], [None]], **options)
    assert found == pytest.approx([1.0, first, second, 2.0]) and second < 2.0 < second * exp(0.3 * second)


def test_without_any_score_it_stays():
    assert multipliers([[None], []], limit=3.0) == [1.0, 1.0, 1.0]


def test_a_soft_constraint_has_a_fixed_price():
    assert multipliers([[9.0], [9.0]], constraint="soft") == [1.0, 1.0, 1.0]


def graded(now, reference, by_model, sampler=None):
    rollout = SimpleNamespace(by_model=np.array(by_model, bool), sampler_logprob=sampler)
    now = None if now is None else np.array(now, np.float32)
    return SimpleNamespace(
        rollout=rollout, old_logprob=now, reference_logprob=np.array(reference, np.float32)
    )


def test_the_kl_of_a_round_is_the_mean_over_answers_of_sums_over_their_own_tokens():
    long = graded([-1.0, -9.0, -3.0], [-1.5, 0.0, -5.0], [1, 0, 1])  # 0.5 + 2
    short = graded(None, [-2.5], [1], sampler=np.array([-2.0], np.float32))  # where nothing else is known
    assert answer_kl([long, short]) == pytest.approx(1.5)


def test_beta_follows_it():
    adaptive = Adaptive(Kl(target=1.0, horizon=100), Cost(), lambda round: [graded([-1.0], [-3.0], [1])] * 10)
    recipe = replace(RECIPE, reward_beta=0.1)
    assert adaptive(2, recipe).reward_beta == pytest.approx(
        0.1 * 1.02**2
    )  # 2 nats: a fifth of 10 / 100 a round
