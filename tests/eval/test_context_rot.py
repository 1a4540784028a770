"""The repeated-words task and its distance, against the textbook recursion."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.eval.context_rot import places, repeated_words, score_copy, word_distance


def textbook(a, b):
    @cache
    def d(i, j):
        if not i or not j:
            return i + j
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return d(len(a), len(b))


@given(st.lists(st.sampled_from("abc"), max_size=9), st.lists(st.sampled_from("abc"), max_size=9))
def test_the_distance_is_levenshteins(a, b):
    assert word_distance(a, b) == textbook(tuple(a), tuple(b))


def test_a_copy_by_hand():
    task = repeated_words(5, 2)
    assert task.target == "apple apple apples apple apple" and task.prompt.endswith("\n\n" + task.target)
    perfect = score_copy(task, f"  {task.target}\n")
    assert (perfect.similarity, perfect.unique_right, perfect.words_over) == (1.0, True, 0)
    shifted = score_copy(
        task, "apple apples apple apple apple apple"
    )  # one inserted, one dropped and one more
    assert shifted.unique_right is False and shifted.words_over == 1
    assert shifted.similarity == pytest.approx(1 - 2 / 6)
    twice = score_copy(task, "apple apple apples apple apples")
    assert twice.unique_right is False and twice.similarity == pytest.approx(0.8)
    assert score_copy(task, "").similarity == 0.0 and score_copy(task, "").words_over == -5


def test_places_reach_both_ends():
    assert places(9, 5) == [0, 2, 4, 6, 8] and places(1, 5) == [0] and places(100, 2) == [0, 99]


def test_long_texts_are_scored_quickly_enough():
    task = repeated_words(4000, 17)
    assert score_copy(task, " ".join(["apple"] * 3990)).words_over == -10


def test_impossible_tasks_are_refused():
    for arguments in ((5, 5), (5, -1), (5, 1, "a", "a"), (5, 1, "two words", "b")):
        with pytest.raises(ValueError, match="two different single words"):
            repeated_words(*arguments)
