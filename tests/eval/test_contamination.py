"""Contamination: what is there is found in any dress, what is not there is not, what is too short is unknown."""

import math
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.errors import UserError
from rung.eval import contamination
from rung.eval.contamination import (
    build_index,
    check,
    gram_hashes,
    loss_gap,
    min_k_percent,
    overlap,
    separation,
)

WORDS = ["red", "blue", "green", "one", "two", "three", "cat", "dog", "sun", "moon", "tree", "sea"]


def text(seed, count):
    chooser = random.Random(seed)
    return " ".join(f"{chooser.choice(WORDS)}{chooser.randrange(50)}" for _ in range(count))


def test_a_planted_item_is_found_in_any_case_and_punctuation():
    item = text(1, 20)
    dressed = "Well: " + ", ".join(item.upper().split()) + "!"
    index = build_index([text(2, 300), text(3, 100) + dressed + text(4, 100)])
    assert item in index and overlap(index, item).covered == 1.0
    assert text(5, 40) not in index and overlap(index, text(5, 40)).covered == 0.0


def test_coverage_by_hand():
    index = build_index(["a b c d"], n=3)
    found = overlap(index, "x a b c y z b c d")  # a b c and b c d: six of nine words
    assert found.covered == pytest.approx(6 / 9) and found.longest == "a b c"
    assert overlap(index, "x a b c d e").longest == "a b c d"


def test_order_and_repetition_count():
    index = build_index(["a b c d"], n=3)
    for other in ("c b a", "a c b", "a a b", "b b b", "a b d"):
        assert other not in index


@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=12), max_size=4),
    st.lists(st.sampled_from("abc"), max_size=9),
)
def test_against_a_set_of_n_grams(documents, item):
    n = 3
    known = {tuple(d[i : i + n]) for d in documents for i in range(len(d) - n + 1)}
    index = build_index([" ".join(d) for d in documents], n)
    assert len(index.hashes) == len(known)
    hits = [tuple(item[i : i + n]) in known for i in range(len(item) - n + 1)]
    assert index.hits(item).tolist() == hits
    covered = [any(hits[max(i - n + 1, 0) : i + 1]) for i in range(len(item))]
    if len(item) >= n:
        assert overlap(index, " ".join(item)).covered == pytest.approx(np.mean(covered))


def test_short_items_are_unknown_and_never_clean():
    index = build_index([text(1, 50)])
    found = check(index, [text(1, 50), text(9, 30), "too short to tell", text(8, 13)])
    assert (found.found, found.unknown) == (1, 1) and found.share.value == pytest.approx(1 / 3)
    assert math.isnan(found.overlaps[2].covered)
    assert check(index, ["short"]).share is None


def test_blocks_do_not_change_the_index(monkeypatch):
    texts = [text(seed, 60) for seed in range(20)]
    whole = build_index(texts)
    monkeypatch.setattr(contamination, "BLOCK", 100)
    assert (build_index(iter(texts)).hashes == whole.hashes).all()


def test_hashes_are_the_same_in_another_process():
    code = "from rung.eval.contamination import gram_hashes; print(gram_hashes(['a', 'b', 'ü'], 2).tolist())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(gram_hashes(["a", "b", "ü"], 2).tolist())


def test_hashes_of_many_n_grams_do_not_collide():
    words = [f"w{i % 700}" for i in range(200_000)]
    assert len(set(gram_hashes(words, 4).tolist())) == 700
    assert len(set(gram_hashes([f"w{i}" for i in range(100_000)], 1).tolist())) == 100_000


def test_min_k_by_hand():
    assert min_k_percent([-1, -5, -2, -9, -3], 40) == -7
    assert min_k_percent([-1, -5, -2, -9], 1) == -9, "at least one token"
    assert min_k_percent([-1, -2], 100) == -1.5


def test_separation_is_the_share_of_pairs():
    a, b = [3.0, 1.0, 2.0], [2.0, 0.0]
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b]
    assert separation(a, b) == pytest.approx(np.mean(pairs))
    assert separation(a, a) == 0.5


def test_a_memorised_set_has_a_gap_and_an_unseen_one_has_none():
    generator = np.random.default_rng(0)

    def losses(level):
        return [-generator.exponential(level, 40) for _ in range(60)]

    assert loss_gap(losses(1.2), losses(2.0)).difference.low > 0.5
    alarms = sum(loss_gap(losses(2.0), losses(2.0)).p < 0.05 for _ in range(20))
    assert alarms <= 4


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="do not exist"):
        build_index([], n=0)
    with pytest.raises(ValueError, match="percentage"):
        min_k_percent([], 20)
    with pytest.raises(ValueError, match="both sides"):
        separation([], [1.0])
