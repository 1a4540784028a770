"""The guessing game, turn by turn."""

import pytest

from rung.envs.guess import guessed
from rung.envs.load import load_environment
from rung.envs.play import play


@pytest.mark.parametrize("numbers", [2, 3, 31, 32, 33, 100])
def test_halving_always_finds_the_number_in_the_guesses_given(numbers):
    from rung.envs.guess import halving

    environment = load_environment(f"guess?numbers={numbers}")
    for task in environment.train[:60]:
        assert play(environment, task, halving(task, environment.max_turns))[1].value == 1


def test_the_world_says_where_the_number_lies():
    environment = load_environment("guess")
    task, secret = environment.example.task, environment.example.task.reference["secret"]
    said = play(
        environment, task, [f"Guess: {secret - 1}", f"Guess: {secret + 1}", "hm", f"I say.\nGuess: {secret}"]
    )
    contents = [m["content"] for m in said[0].messages if m["role"] == "user"]
    assert contents[:2] == ["Higher.", "Lower."] and contents[2].startswith("I saw no guess")
    assert said[1].value == 1 and said[1].parts == {"guesses": 4, "answered": 0.75}


def test_finding_it_after_the_last_guess_is_too_late():
    environment = load_environment("guess?numbers=4")
    task = environment.example.task
    late = ["Guess: 0"] * 3 + [f"Guess: {task.reference['secret']}"]
    assert play(environment, task, late)[1].value == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Guess: 7", 7),
        ("guess: -3.", -3),
        ("Guess: 1\nGuess: 2", 2),
        ("Guess: 1 2 3", None),
        ("7", None),
        ("Guess:", None),
        ("Guess: " + "9" * 5000, None),
    ],
)
def test_one_number_is_a_guess_and_a_list_is_none(text, number):
    assert guessed(text) == number
