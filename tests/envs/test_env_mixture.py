"""Mixtures: shares at every beginning, tasks of the right member graded by the right grader, turned by the seed."""

from collections import Counter

import pytest

from rung.envs.load import load_environment
from rung.envs.mixture import MEMBER
from rung.envs.play import play
from rung.errors import UserError


def members(environment, count: int) -> Counter:
    return Counter(task.extra[MEMBER] for task in environment.train[:count])


@pytest.mark.parametrize("count", [1, 7, 10, 100, 500])
def test_every_beginning_has_the_shares_asked_for(count):
    got = members(load_environment("arithmetic=0.7,guess=0.2,lookup=0.1"), count)
    for name, weight in (("arithmetic", 0.7), ("guess", 0.2), ("lookup", 0.1)):
        assert abs(got[name] - weight * count) <= 1


def test_weights_need_not_add_up_and_none_means_equal():
    assert members(load_environment("arithmetic=3,guess=1"), 400) == {"arithmetic": 300, "guess": 100}
    assert members(load_environment("arithmetic,guess"), 400) == {"arithmetic": 200, "guess": 200}


def test_no_task_of_a_member_is_skipped_or_repeated_before_all_were_had():
    environment = load_environment("arithmetic=0.5,guess=0.5", train_size=40)
    for name in ("arithmetic", "guess"):
        keys = [t.key for t in environment.train if t.extra[MEMBER] == name]
        assert len(set(keys)) == len(keys) == 20


def test_a_small_member_goes_round():
    from rung.envs.mixture import mixture

    small, large = load_environment("guess", train_size=3), load_environment("arithmetic", train_size=100)
    keys = [
        t.key for t in mixture([small, large], [1, 1], seed=0, size=20).train if t.extra[MEMBER] == "guess"
    ]
    assert Counter(keys).most_common()[0][1] - Counter(keys).most_common()[-1][1] <= 1 and len(set(keys)) == 3


def test_the_seed_turns_the_order_and_nothing_else_does():
    one, same, other = (load_environment("arithmetic=0.7,guess=0.3", seed=s) for s in (1, 1, 2))
    assert one.train[:30] == same.train[:30] != other.train[:30]
    assert [one.train[i] for i in (29, 3, 17)] == [one.train[:30][i] for i in (29, 3, 17)]


def test_a_member_that_is_always_the_same_begins_elsewhere_with_another_seed():
    from rung.envs.mixture import mixture

    member = load_environment(
        "arithmetic", train_size=1000
    )  # one seed, as rows of a file are one for all seeds
    starts = {mixture([member], None, seed, 1).train[0].key for seed in range(5)}
    assert len(starts) == 5


def test_every_task_is_graded_and_answered_by_its_own_member():
    environment = load_environment("arithmetic,guess,lookup")
    alone = {name: load_environment(name) for name in ("arithmetic", "guess", "lookup")}
    for name, member in alone.items():
        task = next(t for t in environment.train if t.extra[MEMBER] == name)
        assert play(environment, task, [f"Answer: {task.reference}"])[1].value == (name != "guess")
        if name == "guess":
            attempt, verdict = play(environment, task, ["Guess: 0", f"Guess: {task.reference['secret']}"])
            assert verdict.value == 1 and attempt.messages[1]["content"] == "Higher."
        else:
            assert len(play(environment, task, ["a", "b", "c"])[0].messages) == 1  # one turn each
        assert environment.max_turns >= member.max_turns


def test_a_member_with_few_turns_keeps_its_limit_in_a_mixture():
    environment = load_environment("guess?numbers=4,guess?numbers=64")
    short = next(t for t in environment.train if t.extra[MEMBER] == "guess?numbers=4")
    attempt, _ = play(environment, short, ["Guess: 0"] * 7)
    assert environment.max_turns == 7 and sum(m["role"] == "assistant" for m in attempt.messages) == 3


def test_the_test_set_is_every_members():
    environment = load_environment("arithmetic=0.9,guess=0.1", test_size=6)
    assert Counter(t.extra[MEMBER] for t in environment.test) == {"arithmetic": 6, "guess": 6}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("arithmetic=0.7,guess", "guess has no weight but others have"),
        ("arithmetic=0,guess=1", "a weight must be a positive number"),
        ("arithmetic=nan,guess=1", "a weight must be a positive number"),
        ("arithmetic=0.5,arithmetic=0.5", "holds arithmetic twice"),
        ("arithmetic=0.5,", "empty part"),
        ("arithmetic=0.5,gess=0.5", "did you mean guess"),
    ],
)
def test_mistakes_are_named(spec, says):
    with pytest.raises(UserError, match=says):
        load_environment(spec)


def test_options_and_weights_are_told_apart():
    environment = load_environment("arithmetic?digits=1=0.75,arithmetic?digits=2&operations=+=0.25")
    assert members(environment, 8) == {"arithmetic?digits=1": 6, "arithmetic?digits=2&operations=+": 2}
    assert members(load_environment("arithmetic?digits=1,arithmetic?digits=3"), 2).total() == 2
