"""Diversity by hand, against sacrebleu's numbers, and at its limits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.eval.diversity import (
    distinct,
    mean_token_entropy,
    self_bleu,
    semantic_spread,
    split,
    word_entropy,
)

CATS = ["the cat sat on the mat", "the cat is on the mat today", "a dog sat on the mat", "it rains"]


def test_words_and_marks():
    assert split("Don't stop, 3.5!") == ["don", "'", "t", "stop", ",", "3", ".", "5", "!"]
    assert split("a b c", words=2) == ["a", "b"]


def test_distinct_by_hand():
    """a b, b a, a b | a b, b c: five bigrams, three different."""
    assert distinct(["a b a b", "a b c"]) == 3 / 5
    assert distinct(["a b a b", "a b c"], n=1) == 3 / 7
    assert math.isnan(distinct(["a", ""]))


def test_equal_lengths_undo_what_length_alone_does():
    once, thrice = ["a b c d"], ["a b c d " * 3]
    assert distinct(once) == 1.0 and distinct(thrice) < 0.5
    assert distinct(thrice, words=4) == distinct(once)


def test_self_bleu_by_hand():
    """`a b` against `a c`: unigrams 1 of 2; bigrams (0 + 1) of (1 + 1); equal length. sqrt(1/2 * 1/2)."""
    assert self_bleu(["a b", "a c"]) == pytest.approx(0.5)
    assert self_bleu(["a b", "a b"]) == 1.0 and self_bleu(["a b", "c d"]) == 0.0


def test_a_count_is_clipped_to_the_most_that_one_other_holds():
    """`a a` holds a twice, the others once each: one match of two, not two."""
    assert self_bleu(["a a", "a b", "a c"], most=1) == pytest.approx((0.5 + 0.5 + 0.5) / 3)


def test_a_short_answer_pays_for_its_brevity():
    """`a b` against `a b c d`: all matches, exp(1 - 4/2); the long one: (2/4 (1+1)/(3+1))^1/2."""
    assert self_bleu(["a b", "a b c d"], most=2) == pytest.approx(
        (math.exp(-1) + math.sqrt(1 / 2 * 1 / 2)) / 2
    )


def test_brevity_is_against_the_nearest_length():
    """Two words: the nearest other has three, so exp(1 - 3/2). Three: nearest has two, no penalty. Eight: none."""
    found = self_bleu(["a a", "a a a", "a a a a a a a a"], most=1)
    assert found == pytest.approx((math.exp(-1 / 2) + 1 + 3 / 8) / 3)


def test_self_bleu_equals_sacrebleu():
    """sacrebleu 2.x, sentence BLEU, tokenize none, add-k of 1, effective order, each against the others."""
    assert self_bleu(CATS) == pytest.approx(0.42938277966278693, abs=1e-12)


@given(st.lists(st.text(alphabet="ab c", max_size=12), min_size=2, max_size=5), st.randoms())
def test_self_bleu_is_a_share_and_knows_no_order(texts, random):
    value = self_bleu(texts)
    shuffled = list(texts)
    random.shuffle(shuffled)
    assert 0 <= value <= 1 and self_bleu(shuffled) == pytest.approx(value)


def test_collapse_shows_in_every_measure():
    same, varied = [CATS[0]] * 4, CATS
    assert self_bleu(same) == 1.0 > self_bleu(varied)
    assert distinct(same) < distinct(varied) and word_entropy(same) < word_entropy(varied)


def test_entropies():
    assert word_entropy(["a b", "c d"]) == pytest.approx(math.log(4))
    assert word_entropy(["a a a"]) == 0.0 and word_entropy([]) == 0.0
    assert mean_token_entropy([np.array([1.0, 2.0]), np.array([6.0])]) == 3.0


def test_semantic_spread_against_all_pairs():
    vectors = np.random.default_rng(0).normal(size=(6, 5))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [1 - unit[i] @ unit[j] for i in range(6) for j in range(6) if i != j]
    assert semantic_spread(vectors) == pytest.approx(np.mean(pairs))
    assert semantic_spread(vectors * 7) == pytest.approx(np.mean(pairs))
    assert semantic_spread(np.ones((3, 4))) == pytest.approx(0)
    assert semantic_spread(np.array([[1.0, 0], [-1, 0]])) == 2.0


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        self_bleu(["a"])
    with pytest.raises(ValueError, match="none of them zero"):
        semantic_spread(np.array([[0.0, 0], [1, 0]]))
