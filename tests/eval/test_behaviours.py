"""Detectors of cognitive behaviours: on texts written by hand, on texts that only look like them, on the generator."""

import random
from itertools import combinations

import pytest

from rung.envs.countdown_traces import (
    BACKTRACKING,
    BACKWARD,
    BEHAVIOURS,
    SUBGOAL,
    VERIFICATION,
    Made,
    branches,
    joined,
    reachable,
    trace,
)
from rung.errors import UserError
from rung.eval.behaviours import COMPILED, behaviours, shares
from rung.rewards.countdown import evaluate

BY_HAND = {
    VERIFICATION: [
        "Let me check that 3*5-8 = 7.",
        "Let me verify my answer: 8+3 is 11.",
        "5*8 = 40, not 15.",
        "50 - 7 = 43, which is too big.",
        "3 + 50 = 53. That matches the target, since this equals 53, and it equals what we want. It matches.",
        "I should double-check the result.",
    ],
    BACKTRACKING: [
        "That doesn't work, so take another pair.",
        "Hmm. Back. Use 8 and 5.",
        "Let's try again with the product.",
        "Wait, I used 5 twice.",
        "This is a dead end.",
        "Going back to the first step, use 7.",
        "Let me try something else.",
    ],
    SUBGOAL: [
        "First get 15 from 3 and 5.",
        "If I can make 15 from 3 5, the rest follows.",
        "Step 1: multiply.",
        "I will break this down into parts.",
        "Now I need 12, so look at 3 and 8.",
    ],
    BACKWARD: [
        "Working backwards from 24, it has to be 3*8.",
        "The target is 24. 24/3=8, so 8 is wanted.",
        "The target number is 71, and 71 - 50 = 21.",
    ],
}
LOOK_ALIKES = [
    "She wrote a check for 40 dollars.",
    "I came back from the shop with 3 apples.",
    "Make 3 copies of the letter.",
    "He is my backup.",
    "The goal of the game is to win.",
    "3 + 4 = 7 and 7 * 2 = 14.",
    "Please wait here.",
    "We get 12 apples and 5 pears.",
    "The right answer is 42.",
    "A step forward is not a step back.",
    "Try the soup.",
    "The target is 24. 3*8=24.",
    "It works.",
]


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, texts in BY_HAND.items() for t in texts])
def test_by_hand(name, text):
    assert behaviours(text)[name] > 0


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_what_only_looks_like_it(text):
    assert {name: n for name, n in behaviours(text).items() if n} == {}


def test_counts_by_hand():
    text = "7-3=4, make 4 from 5 8: 5*8=40, not 4. back. 7+8=15, first get 15 from 3 5: 3*5=15, yes. check 3*5-8=7, yes."
    found = behaviours(text, 7)
    assert found[BACKTRACKING] == 1 and found[SUBGOAL] == 2 and found[BACKWARD] == 2
    assert found[VERIFICATION] == 3
    assert behaviours(text)[BACKWARD] == 0  # nobody said what the target is
    assert behaviours(text, 17)[BACKWARD] == 0


def held_out(count: int, seed: int):
    """(trace, target, behaviours asked for, right), over random tasks and random sets of behaviours."""
    made = 0
    for index in range(10**6):
        dice = random.Random(f"{seed} {index}")
        numbers = [dice.randint(1, 25) for _ in range(dice.choice([3, 3, 3, 4]))]
        target = int(dice.choice(sorted(reachable(numbers))))
        show = {name for name in BEHAVIOURS if dice.random() < 0.5}
        right = dice.random() < 0.5
        try:
            text = trace(numbers, target, dice, show=show, right=right)
        except UserError:
            continue
        yield numbers, target, show, right, text
        made += 1
        if made == count:
            return


def test_traces_are_what_they_say():
    """Every equation in them is true, the answer is right or wrong as asked, and uses each number once."""
    for numbers, target, _, right, text in held_out(80, 1):
        said, _, answer = text.rpartition("answer ")
        value, used = evaluate(answer)
        assert (value == target) == right and sorted(used) == sorted(numbers)
        for piece in said.replace("check ", "").replace(":", ",").replace(". ", ",").split(","):
            left, equals, stated = piece.partition("=")
            if equals:
                assert evaluate(left)[0] == evaluate(stated.strip(" ."))[0], text


def test_precision_and_recall_on_held_out_traces():
    hits = {name: [0, 0, 0] for name in BEHAVIOURS}  # both, only asked for, only found
    for _, target, show, _, text in held_out(120, 2):
        if "back." not in text and "try again" not in text:
            show = show - {BACKTRACKING}  # there was no branch to leave
        found = behaviours(text, target)
        for name in BEHAVIOURS:
            asked, seen = name in show, found[name] > 0
            hits[name][0] += asked and seen
            hits[name][1] += asked and not seen
            hits[name][2] += seen and not asked
    for name, (both, missed, false) in hits.items():
        assert both / (both + missed) >= 0.99, name
        assert both / (both + false) >= (0.9 if name == BACKWARD else 0.99), name


def test_each_set_of_behaviours_shows_in_the_same_task():
    for size in range(5):
        for show in combinations(BEHAVIOURS, size):
            found = behaviours(trace([3, 5, 8], 7, random.Random(3), show=show, signs="+-*"), 7)
            assert {name for name, n in found.items() if n} <= set(show)


def test_a_wrong_trace_shows_as_much_as_a_right_one():
    rates = []
    for right in (True, False):
        texts = [
            (trace([3, 5, 8], 7, random.Random(seed), right=right, signs="+-*"), 7) for seed in range(200)
        ]
        rates.append(shares(texts))
    for name in (VERIFICATION, SUBGOAL, BACKWARD):
        assert rates[0][name] == rates[1][name] == 1
    assert abs(rates[0][BACKTRACKING] - rates[1][BACKTRACKING]) < 0.15


def test_reachable_by_hand():
    assert {int(v) for v in reachable([2, 3], "+-*")} == {1, 5, 6}
    assert {int(v) for v in reachable([2, 4], "/")} == {2}
    assert all(evaluate(made.text)[0] == value for value, made in reachable([3, 4, 6]).items())
    assert set(reachable([1, 2, 3], "+")) == {6}


@pytest.mark.parametrize(
    ("left", "sign", "right", "expected"),
    [
        (("1+2", 3, True), "*", ("4", 4, False), "(1+2)*4"), (("4", 4, False), "*", ("1+2", 3, True), "4*(1+2)"),
        (("9", 9, False), "-", ("1+2", 3, True), "9-(1+2)"), (("9", 9, False), "+", ("1-2", -1, True), "9+1-2"),
        (("8", 8, False), "/", ("2*2", 4, False), "8/(2*2)"), (("2*3", 6, False), "-", ("4", 4, False), "2*3-4"),
        (("9", 9, False), "-", ("2*2", 4, False), "9-2*2"),
    ],
)  # fmt: skip
def test_brackets(left, sign, right, expected):
    made = joined(Made(*left), sign, Made(*right))
    assert made.text == expected and evaluate(expected)[0] == made.value


def test_branches_by_hand():
    found = {(b.sign, b.last, b.rest, int(b.needed)) for b in branches([3, 5], 15, "+-*")}
    assert found == {
        ("+", 3, (5,), 12), ("-", 3, (5,), 18), ("*", 3, (5,), 5),
        ("+", 5, (3,), 10), ("-", 5, (3,), 20), ("*", 5, (3,), 3),
    }  # fmt: skip


def test_what_cannot_be_traced_is_refused():
    with pytest.raises(UserError, match="no branch that succeeds"):
        trace([1, 1, 1], 50, random.Random(0))
    with pytest.raises(UserError, match="no branch that fails"):
        trace([1, 1], 2, random.Random(0), right=False, signs="+")


def test_shares_of_texts():
    found = shares([("back. try again.", None), ("nothing", None)])
    assert found[BACKTRACKING] == 0.5 and found[SUBGOAL] == 0 and set(found) == set(COMPILED)
    assert shares([])[SUBGOAL] != shares([])[SUBGOAL]


def test_hostile_texts_end():
    for text in (
        "check " * 10_000,
        "1+" * 20_000,
        "=1" * 20_000,
        "(" * 50_000,
        "make 1 " * 10_000,
        "=1" + " " * 50_000,
    ):
        behaviours(text, 1)
