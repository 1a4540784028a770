"""Final answers: which one counts, braces, thinking, and time linear in whatever a model writes."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.rewards.extract import boxed, final_answer, last_number, marked_answer, tagged, without_thinking


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>maybe 4</think><answer> 5 </answer>", "5"),
        ("<answer>4</answer> no, <answer>5</answer>", "5"),
        ("so \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}"),
        ("\\boxed{a} then \\boxed{b", "a"),  # the second was cut off
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("{\\boxed {x_{1}}}", "x_{1}"),
        ("\\boxed{\\boxed{3}}", "\\boxed{3}"),
        ("<answer>\\boxed{7}</answer>", "7"),
        ("first #### 1\nthen\n#### 1,234\n", "1,234"),
        ("Let me see.\nAnswer: 3", "3"),
        ("**Final answer:** 12 apples", "12 apples"),
        ("The answer is (B).", "(B)."),
        ("\\boxed{2} <answer>1</answer> #### 3", "1"),  # the more deliberate form
        ("answering is hard", None),
        ("", None),
    ],
)
def test_the_answer_that_was_marked(text, answer):
    assert marked_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),  # the template opened it
        ("<think>a</think>b<think>c</think>d", "d"),
        ("b<think>a", "b"),
        ("<think>\\boxed{5}", ""),
        ("plain", "plain"),
    ],
)
def test_thinking_is_not_searched(text, visible):
    assert without_thinking(text) == visible


def test_an_answer_only_thought_of_is_none():
    assert marked_answer("<think>\\boxed{5} #### 5 <answer>5</answer></think>I do not know") is None
    assert final_answer("<think>5</think> I do not know ") == "I do not know"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 and then -4.5", "-4.5"),
        ("5-3", "3"),
        ("x=-3", "-3"),
        ("about 1,234,567.", "1,234,567"),
        ("in 2, 3", "3"),
        ("6.02e23 of them", "6.02e23"),
        ("\u22127", "\u22127"),
        ("none", None),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number


@given(st.text(alphabet="ab1\\ ", max_size=20).filter(lambda t: not t.endswith("\\")), st.integers(0, 5))
def test_nested_braces_come_back_whole(content, depth):
    inside = "{" * depth + content + "}" * depth
    if "\\b" not in content:
        assert boxed(f"so \\boxed{{{inside}}} }} it is") == inside.strip()


@pytest.mark.parametrize(
    "unit", ["<answer>", "\\boxed{", "{", "####", "Answer:", "answer is ", "1,234", "</think>", "1.", "\n> "]
)
def test_time_is_linear_in_what_a_model_writes(unit):
    begun = time.perf_counter()
    final_answer(unit * 20_000)
    last_number(unit * 20_000)
    tagged(unit * 20_000)
    assert time.perf_counter() - begun < 3
