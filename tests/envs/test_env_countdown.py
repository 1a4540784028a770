"""Countdown tasks: every one has the solution it carries; the game of 24 is solved exactly."""

import random
from collections import Counter
from fractions import Fraction

import pytest

from rung.envs.countdown import combined, solve
from rung.envs.load import load_environment
from rung.envs.play import play
from rung.errors import UserError
from rung.rewards.countdown import evaluate


@pytest.mark.parametrize("seed", range(40))
def test_combined_numbers_come_to_what_is_said_and_use_each_once(seed):
    random_ = random.Random(seed)
    numbers = [random_.randint(1, 100) for _ in range(random_.randint(2, 6))]
    text, value = combined(numbers, random_)
    assert evaluate(text)[0] == value >= 0 and Counter(evaluate(text)[1]) == Counter(numbers)


@pytest.mark.parametrize("numbers", [[8, 8, 3, 3], [1, 5, 5, 5], [3, 3, 7, 7], [1, 3, 4, 6], [6, 6, 6, 6]])
def test_known_hard_deals_of_24_are_solved(numbers):
    text, value = solve(numbers, 24)
    assert evaluate(text)[0] == value == 24 and Counter(evaluate(text)[1]) == Counter(numbers)


@pytest.mark.parametrize("numbers", [[1, 1, 1, 1], [1, 1, 1, 2], [9, 9, 9, 9], [1, 6, 7, 7]])
def test_known_impossible_deals_are_not(numbers):
    assert solve(numbers, 24) == ("", Fraction(24))


def test_the_game_of_24_asks_for_24():
    for task in load_environment("countdown?target=24&min_numbers=4&max_value=13", test_size=4).test:
        assert task.reference["target"] == 24 and solve(task.reference["numbers"], 24)[0]


def test_scores_are_one_a_little_and_nothing():
    environment = load_environment("countdown")
    task = environment.example.task
    numbers, target = task.reference["numbers"], task.reference["target"]
    assert play(environment, task, [f"<answer>{numbers[0]} + {numbers[1]}</answer>"])[1].value == 0.1
    assert play(environment, task, [f"<answer>{target}</answer>"])[1].value == 0.1  # the target is not given
    assert play(environment, task, ["I give up"])[1].value == 0


@pytest.mark.parametrize("option", ["min_numbers=5", "max_numbers=9", "min_value=0", "target=5000"])
def test_impossible_settings_are_refused(option):
    with pytest.raises(UserError, match="countdown"):
        load_environment(f"countdown?{option}")
