"""Generated tasks: pure functions of seed and index, in any process; training and test never meet."""

import os
import random
import subprocess
import sys

import pytest

from rung.envs.generated import Problem, held_out, identity, seeded
from rung.envs.load import load_environment
from rung.errors import UserError

SPECS = [
    "arithmetic?digits=1",
    "countdown?max_value=12&max_numbers=3",
    "guess",
    "lookup",
    "reasoning-gym/chain_sum",
]

PRINT = """
from rung.envs.load import load_environment
for spec in {specs!r}:
    e = load_environment(spec, seed=3, test_size=5)
    for task in [e.train[0], e.train[7123], e.train[-1], *e.test]:
        print(task.key, task.messages, task.reference)
mix = load_environment("arithmetic=0.7,guess=0.2,lookup=0.1", seed=3)
for i in (0, 1, 2, 3, 999):
    print(mix.train[i].key, mix.train[i].messages)
"""


def test_tasks_are_the_same_in_every_process():
    """Under two hash seeds: nothing may hang on hash() of a string or the order of a set."""
    said = [
        subprocess.check_output(
            [sys.executable, "-c", PRINT.format(specs=SPECS)],
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert "arithmetic?digits=1:train:3:7123" in said[0]


@pytest.mark.parametrize("spec", SPECS)
def test_training_tasks_of_any_seed_are_no_test_task(spec):
    test = {str(task.messages) for task in load_environment(spec, test_size=60).test}
    train = {str(t.messages) for seed in (0, 1, 2) for t in load_environment(spec, seed=seed).train[:300]}
    assert len(test) >= 10
    assert not test & train


@pytest.mark.parametrize("spec", SPECS)
def test_the_test_set_is_distinct_and_the_same_for_every_training_seed(spec):
    first, second = (
        load_environment(spec, test_size=20).test,
        load_environment(spec, seed=9, test_size=40).test,
    )
    assert [t.key for t in first] == [t.key for t in second[:20]]  # a longer one begins alike
    assert len({str(task.messages) for task in second}) == len(second)


def test_seeds_give_other_tasks_and_keys_name_one_task():
    a, b = load_environment("arithmetic", seed=1), load_environment("arithmetic", seed=2)
    assert sum(x.messages == y.messages for x, y in zip(a.train[:200], b.train[:200], strict=True)) < 20
    pairs = {(t.key, str(t.messages)) for e in (a, b) for t in [*e.train[:500], *e.test]}
    assert len({key for key, _ in pairs}) == len(pairs)


def test_access_in_any_order_and_by_any_index_gives_the_same_task():
    train = load_environment("countdown", train_size=50).train
    forward = list(train)
    indices = list(range(50))
    random.Random(0).shuffle(indices)
    assert all(train[i] == forward[i] for i in indices)
    assert train[-1] == forward[49] and train[10:14] == forward[10:14] and len(train) == 50
    with pytest.raises(IndexError):
        train[50]


def test_a_quarter_is_held_out():
    share = sum(held_out(Problem(f"What is {i}?", i, "")) for i in range(4000)) / 4000
    assert abs(share - 0.25) < 0.03  # four standard deviations are 0.027


def test_form_alone_does_not_make_another_question():
    assert identity(Problem("What  is\n2 + 3?", 5, "5")) == identity(Problem("what is 2 + 3?", 5, "5"))
    swapped = [
        task for task in load_environment("arithmetic?digits=1").test if "+" in task.messages[0]["content"]
    ]
    numbers = {tuple(sorted(t.messages[0]["content"].split("?")[0].split()[2::2])) for t in swapped}
    assert len(numbers) == len(swapped)  # 3 + 5 and 5 + 3 are one question, and only once in the test
    trained = {
        tuple(sorted(t.messages[0]["content"].split("?")[0].split()[2::2]))
        for t in load_environment("arithmetic?digits=1&operations=+").train[:2000]
    }
    assert not numbers & trained


def test_a_space_with_nothing_left_for_training_says_so():
    from rung.envs.generated import Generated

    question = next(f"q{i}" for i in range(99) if held_out(Problem(f"q{i}", 0, "")))
    only_held_out = Generated("tiny", seeded(lambda _: Problem(question, 0, "")), lambda p: [], 0, 10)
    with pytest.raises(UserError, match="tiny: 64 draws gave only questions that are held out"):
        only_held_out[0]
