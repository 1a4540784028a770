"""Exact, Regex, Choice."""

import pytest

from rung.errors import UserError
from rung.rewards.matching import Choice, Exact, Regex
from rung.rewards.score import Attempt, Failure, Score


def attempt(answer, reference=None):
    return Attempt((), answer, reference)


def test_exact_compares_the_final_answer_not_the_text_around_it():
    assert Exact()(attempt("well <answer> red \n blue </answer>", "red blue")) == Score(1.0)
    assert Exact()(attempt("<think>blue</think>red", "red")) == Score(1.0)
    assert Exact()(attempt("red", "Red")) == Score(0.0)
    assert Exact(ignore_case=True)(attempt("red", "Red")) == Score(1.0)
    assert Exact()(attempt("5", 5)) == Score(1.0)
    assert Exact()(attempt("b", ["a", "b"])) == Score(1.0)
    assert Exact()(attempt("red or blue", "red")) == Score(0.0)


@pytest.mark.parametrize("reference", [None, [], ["a", None]])
def test_exact_without_reference_fails(reference):
    assert isinstance(Exact()(attempt("None", reference)), Failure)


def test_regex():
    assert Regex(r"^\d+ apples$")(attempt("<think>no</think>12 apples")) == Score(1.0)
    assert Regex(r"\d")(attempt("<think>12</think>none")) == Score(0.0)
    assert not getattr(Regex("a"), "trusted", False)  # (a+)+b would hold up the trainer
    with pytest.raises(UserError, match=r"\(\["):
        Regex("([")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B. Paris", "B"),
        ("**B**", "B"),
        ("The answer is (B).", "B"),
        ("I considered all.\nAnswer: C", "C"),
        ("\\boxed{\\text{D}}", "D"),
        ("<answer>option B</answer>", "B"),
        ("<answer>(A) Alice's cat</answer>", "A"),
        ("It must be (C)", "C"),
        ("A or B", None),
        ("<answer>A or B</answer>", None),
        ("<answer>A, B, C, D</answer>", None),
        ("It is (A) or (B)", None),
        ("A cat sat", None),
        ("Dogs", None),
        ("<think>B</think>", None),
        ("<answer>E</answer>", None),
    ],
)
def test_the_chosen_letter(text, letter):
    assert Choice().chosen(text) == letter


def test_choice_references():
    assert (
        Choice()(attempt("B", "b"))
        == Choice()(attempt("B", 1))
        == Choice()(attempt("B", "(B)"))
        == Score(1.0)
    )
    assert Choice()(attempt("A", 1)) == Score(0.0)
    for reference in (None, "E", 4, -1, True, "AB"):
        assert isinstance(Choice()(attempt("B", reference)), Failure)
