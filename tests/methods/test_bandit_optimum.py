"""The recipe's claim as a test: each method ends where theory says, to nothing but rounding."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "recipes" / "bandit_optimum.py"
spec = importlib.util.spec_from_file_location("bandit_optimum", PATH)
bandit = importlib.util.module_from_spec(spec)
sys.modules["bandit_optimum"] = bandit  # dataclasses look their module up
spec.loader.exec_module(bandit)

AT_OPTIMUM = {"ppo", "rloo", "dpo", "grpo, unnormalised"}
CHEAP = [("one step", "ppo"), ("one step", "grpo, plain k3"), ("one step", "grpo")]
SLOW = [
    ("one step", "rloo"), ("one step", "grpo, unnormalised"), ("one step", "dpo"),
    ("two steps", "ppo"), ("two steps", "rloo"),
]  # fmt: skip
WORLDS = {world.name: world for world in (bandit.ONE, bandit.TWO)}


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS.keys())
def test_the_optimum_is_the_tilted_reference(world):
    """r - beta log(policy / reference) is the same for every answer."""
    paid = world.reward - bandit.BETA * np.log(world.optimum / world.prior)
    assert paid == pytest.approx(paid[0])
    assert world.prior.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("world", "name"), [*CHEAP, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_a_method_ends_at_its_fixed_point(world, name):
    which = WORLDS[world]
    end = bandit.learn(which, bandit.methods(which)[name])[-1]
    aim = bandit.fixed_point(which, name)
    assert bandit.divergence(which.prior, aim) > 0.02  # there was a way to go
    assert abs(bandit.divergence(end, aim)) < 1e-6
    if name in AT_OPTIMUM:
        assert bandit.divergence(end, which.optimum) < 1e-6
    else:
        assert bandit.divergence(end, which.optimum) > 1e-4


def test_groups_of_two_see_only_the_ranking():
    """(r - mean) / std of a pair is +-1/sqrt(2), whatever the gap: GRPO's optimum is no function of r's size."""
    policy = np.array([0.4, 0.3, 0.2, 0.1])
    ranked = bandit.normalised_credit(np.array([0.0, 2.0, 1.0, 30.0]), policy)
    assert ranked == pytest.approx(bandit.normalised_credit(bandit.ONE.reward, policy))
    assert ranked[3] == pytest.approx(0.9 / 2**0.5)
