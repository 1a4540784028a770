"""Selection of attempts for training: every fate by hand, counts that add up, the order of stages."""

import random
from dataclasses import fields, replace

import pytest

from rung.sources.rejection import BANDS, Counts, Rule, Tried, band, by_difficulty, lacking, select, unsolved

ASKED = {"role": "user", "content": "?"}


def tried(task, text, score: float | None = 1.0, finish="stop", **more) -> Tried:
    messages = (ASKED, {"role": "assistant", "content": text})
    return Tried(task, "0/0", "temperature 1", finish, score, messages, 1, **more)


def test_every_fate_by_hand():
    attempts = [
        tried("a", "3+4=7"),
        tried("a", "so 3 + 4 = 7"),  # the same path
        tried("a", "4+3=7"),
        tried("a", "8-1=7"),  # a third path, two are allowed
        tried("b", "3+4=8", 0.0),
        tried("b", "3+4=7", 1.0, "length"),
        tried("c", "?", None, graded="abstain"),
        tried("c", "?", None, graded="failure"),
        tried("c", "the Hint says 7", hinted=True),
        tried("c", "7+0=7", hinted=True),
        tried("d", "  "),
        tried("d", "nearly", 0.99),
    ]
    found = select(attempts, Rule(per_task=2, forbidden="hint"))
    assert found.fates == [
        "kept", "duplicate", "kept", "beyond_per_task", "wrong", "truncated", "abstained", "failed",
        "mentions_hint", "kept", "stub", "wrong",
    ]  # fmt: skip
    assert found.kept == [attempts[0], attempts[2], attempts[9]]
    assert (found.counts.sampled, found.counts.kept, found.counts.wrong) == (12, 3, 2)
    assert str(found.counts).startswith("12 sampled: 3 kept, 1 truncated, 1 abstained")


def test_a_word_that_is_no_hint_is_allowed_where_none_was_shown():
    assert select([tried("a", "hint")], Rule(forbidden="hint")).counts.kept == 1


def test_counts_add_up_whatever_comes():
    dice = random.Random(0)
    for _ in range(50):
        attempts = [
            tried(
                dice.choice("abc"), dice.choice(["1+1=2", "2+0=2", "two", ""]),
                dice.choice([None, 0.0, 0.5, 1.0]), dice.choice(["stop", "stop", "length"]),
                hinted=dice.random() < 0.3, graded=dice.choice(["score", "abstain", "failure"]),
            )
            for _ in range(dice.randrange(30))
        ]  # fmt: skip
        rule = Rule(
            dice.choice(["correct", "best", "all"]),
            0.5,
            dice.choice([1, 2]),
            shortest_share=dice.choice([0, 0.3]),
        )
        found = select(attempts, rule)
        counts = [getattr(found.counts, f.name) for f in fields(Counts)]
        assert counts[0] == len(attempts) == sum(counts[1:])
        assert found.kept == [a for a, fate in zip(attempts, found.fates, strict=True) if fate == "kept"]
        for task in "abc":
            assert sum(one.task == task for one in found.kept) <= rule.per_task
        if rule.select != "all":
            assert all(one.score is not None for one in found.kept)
        if rule.select == "correct":
            assert all(one.score >= 0.5 for one in found.kept)


def test_best_of_n_keeps_the_highest_of_each_task_even_if_none_is_right():
    attempts = [tried("a", "x", 0.1), tried("a", "y", 0.3), tried("a", "z", 0.3), tried("b", "x", -2.0)]
    found = select(attempts, Rule("best", per_task=1))
    assert found.kept == [attempts[1], attempts[3]]
    two = select([*attempts, tried("a", "Y!", 0.3)], Rule("best", per_task=2))
    assert two.fates == ["beyond_per_task", "kept", "kept", "kept", "duplicate"]


def test_all_keeps_wrong_and_unscored_ones_but_never_a_torn_one():
    attempts = [tried("a", "x", 0.0), tried("b", "y", None), tried("c", "z", 1.0, "length")]
    assert select(attempts, Rule("all")).fates == ["kept", "kept", "truncated"]


def test_stubs_and_the_shortest_share():
    attempts = [tried(str(n), "line\n" + "x" * n) for n in range(1, 11)]
    stub = tried("s", "a single line")
    found = select([stub, *attempts], Rule("all", drop_stubs=True, shortest_share=0.2))
    assert found.fates == ["stub", "shortest", "shortest", *["kept"] * 8]
    assert select([stub], Rule("all")).counts.kept == 1


def test_a_conversation_is_judged_by_all_its_turns():
    turns = (ASKED, {"role": "assistant", "content": "1+1=2"}, {"role": "tool", "content": "5+5=10"},
             {"role": "assistant", "content": "2+2=4"})  # fmt: skip
    one = replace(tried("a", ""), messages=turns)
    assert one.text == "1+1=2\n2+2=4"
    assert select([one, tried("a", "1+1=2 and 2+2=4")], Rule()).fates == ["kept", "duplicate"]


def test_a_further_stage_asks_what_lacks_answers_and_a_hint_what_gave_none():
    keys = ["a", "b", "c", "d"]
    attempts = [tried("a", "1+1=2"), tried("a", "2+0=2"), tried("b", "1+1=2"), tried("c", "no", 0.0)]
    attempts.append(tried("d", "?", None))
    rule = Rule(per_task=2)
    assert lacking(keys, [], rule) == [0, 1, 2, 3]
    assert lacking(keys, attempts, rule) == [1, 2, 3]
    assert unsolved(keys, attempts, rule) == [2]  # what could not be graded says nothing of the model
    assert unsolved(keys, [tried("a", "right, but torn", 1.0, "length")], rule) == [0]


@pytest.mark.parametrize(
    ("right", "scored", "name"),
    [(0, 8, "never"), (1, 8, "up to 1/4"), (2, 8, "up to 1/4"), (3, 8, "up to 1/2"), (4, 8, "up to 1/2"),
     (5, 8, "up to 3/4"), (6, 8, "up to 3/4"), (7, 8, "below 1"), (8, 8, "always"), (1, 1, "always")],
)  # fmt: skip
def test_bands_of_difficulty(right, scored, name):
    assert band(right, scored) == name


def test_difficulty_is_counted_by_task_and_hints_do_not_make_a_task_easier():
    attempts = [tried("a", "1"), tried("a", "2", 0.0), tried("b", "3", 0.0), tried("b", "4", hinted=True)]
    attempts.append(tried("c", "?", None))
    found = by_difficulty(attempts, select(attempts, Rule()).fates, 1.0)
    assert list(found) == ["never", "up to 1/2", "unknown"]
    assert set(found) <= {*BANDS, "unknown"}
    assert found["up to 1/2"] == {"sampled": 2, "correct": 1, "kept": 1, "wrong": 1, "tasks": 1}
    assert found["never"] == {"sampled": 2, "correct": 1, "wrong": 1, "kept": 1, "tasks": 1}
    assert found["unknown"]["tasks"] == 1 and found["unknown"]["failed"] == 1
