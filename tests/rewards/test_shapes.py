"""Format, repetition, silence: small rewards about how something was said."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.errors import UserError
from rung.rewards.abstain import AnswerOrSilence
from rung.rewards.matching import Exact
from rung.rewards.repetition import Repetition, repeated_share
from rung.rewards.score import Abstain, Attempt, Failure, Score
from rung.rewards.think_format import ThinkFormat


@pytest.mark.parametrize(
    ("text", "think", "answer", "order", "clean"),
    [
        ("<think>a</think><answer>b</answer>", 1, 1, 1, 1),
        ("\n<think>\na</think>\n\n<answer>b</answer>\n", 1, 1, 1, 1),
        ("<think>a</think> so <answer>b</answer>", 1, 1, 1, 0),
        ("<answer>b</answer><think>a</think>", 1, 1, 0, 0),
        ("<think>a<answer>b</answer></think>", 1, 1, 0, 0),
        ("<think>a</think><think>a</think><answer>b</answer>", 0, 1, 0, 0),
        ("<think> </think><answer>b</answer>", 0, 1, 0, 0),
        ("</think>a<think><answer>b</answer>", 0, 1, 0, 0),
        ("<think>a</think>b", 1, 0, 0, 0),
        ("b", 0, 0, 0, 0),
        ("", 0, 0, 0, 0),
    ],
)
def test_format_has_four_parts(text, think, answer, order, clean):
    parts = {"think": think, "answer": answer, "order": order, "clean": clean}
    assert ThinkFormat()(Attempt((), text)) == Score((think + answer + order + clean) / 4, parts)
    assert ThinkFormat(partial=False)(Attempt((), text)).value == float(all(parts.values()))


def test_format_when_the_prompt_opens_the_thought():
    assert ThinkFormat(opened=True)(Attempt((), "a</think><answer>b</answer>")).value == 1
    assert ThinkFormat(opened=True)(Attempt((), "<think>a</think><answer>b</answer>")).value < 1


def test_repetition_by_hand():
    # Bigrams of a b a b: ab, ba, ab: two of three are distinct.
    assert repeated_share(("a", "b", "a", "b"), 2) == pytest.approx(1 / 3)
    assert Repetition(2, -0.6)(Attempt((), "a B A b")).value == pytest.approx(-0.2)
    assert Repetition(1, -1.0)(Attempt((), "no " * 10)).value == pytest.approx(-0.9)
    assert Repetition(20)(Attempt((), "a " * 19)).value == 0  # no 20-gram at all
    assert Repetition(2, -3.0, "tokens")(Attempt((), "x", token_ids=(1, 2, 1, 2))).value == pytest.approx(-1)
    assert isinstance(Repetition(2, of="tokens")(Attempt((), "x")), Failure)
    with pytest.raises(UserError):
        Repetition(2, +1.0)


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 5))
def test_repetition_is_bounded_and_saying_it_twice_is_worse(words, n):
    once = Repetition(n)(Attempt((), " ".join(words))).value
    twice = Repetition(n)(Attempt((), " ".join(words * 2))).value
    assert -1 < once <= 0
    if len(words) >= n:
        assert twice < once
    assert (once == 0) == (
        len({tuple(words[i : i + n]) for i in range(len(words) - n + 1)}) == max(0, len(words) - n + 1)
    )


def test_silence():
    reward = AnswerOrSilence(Exact(), tau=0.25)
    assert reward(Attempt((), "yes", "yes")).value == 0.75
    assert reward(Attempt((), "no", "yes")).value == -0.25
    for silent in ("", "<think>hm</think>", "I don\u2019t know.", "<answer>i don't  KNOW</answer>"):
        assert reward(Attempt((), silent, "yes")) == Score(0.0, {"answered": 0.0})
    assert isinstance(reward(Attempt((), "no", None)), Failure)
    assert AnswerOrSilence(lambda _: Abstain("tie"))(Attempt((), "no")) == Abstain("tie")
    with pytest.raises(UserError):
        AnswerOrSilence(Exact(), tau=1.5)


@given(st.floats(0, 1), st.floats(0, 1))
def test_answering_pays_exactly_where_the_chance_is_above_tau(tau, p):
    reward = AnswerOrSilence(Exact(), tau)
    right, wrong = (reward(Attempt((), word, "yes")).value for word in ("yes", "no"))
    assert p * right + (1 - p) * wrong == pytest.approx(p - tau, abs=1e-12)


def test_all_of_them_can_be_sent_to_a_worker():
    for reward in (ThinkFormat(), Repetition(), AnswerOrSilence(Exact())):
        assert pickle.loads(pickle.dumps(reward)) == reward


def test_what_follows_the_answer_is_not_clean_and_a_tag_closed_twice_is_none():
    kept = "<think>a</think><answer>b</answer>"
    for text in (f"{kept} and more", f"more {kept}", "<think>a</think> more <answer>b</answer>"):
        assert ThinkFormat()(Attempt((), text)).parts["clean"] == 0.0
    assert ThinkFormat()(Attempt((), f"{kept}\n")).value == 1.0
    twice = ThinkFormat()(Attempt((), "<think>a</think></think><answer>b</answer>"))
    assert twice.parts == {"think": 0.0, "answer": 1.0, "order": 0.0, "clean": 0.0}


def test_repetition_of_tokens_in_an_attempt_that_said_nothing_is_none():
    assert Repetition(2, of="tokens")(Attempt((), "")).value == 0.0
    assert isinstance(Repetition(2, of="tokens")(Attempt((), "said")), Failure)
