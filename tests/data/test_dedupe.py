"""Duplicates against the definition: true likeness by sets of words, on texts made to lie on both sides of it."""

import random

import numpy as np
import pytest

from rung.data.dedupe import Duplicates, Twin, bands_of, jaccard
from rung.data.grams import gram_hashes, words_of
from rung.errors import UserError


def likeness(a, b, n=5):
    """From the definition, without hashes."""

    def grams(text):
        words = words_of(text)
        n_here = min(n, len(words))
        return {tuple(words[i : i + n_here]) for i in range(len(words) - n_here + 1)}

    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


def words(count, seed):
    return [f"w{random.Random(seed * 1000 + i).randrange(10**6)}" for i in range(count)]


def test_exact_duplicates_differ_in_case_spaces_and_marks_only():
    seen = Duplicates(threshold=1)
    assert seen.add("Hello,  World!") is None
    assert seen.add("hello world") == Twin(0, 1.0)
    assert seen.add("hello worlds") is None and seen.add("world hello") is None
    assert seen.add("\uff28\uff45llo world") == Twin(0, 1.0)  # full-width letters


def test_marks_alone_are_told_apart():
    seen = Duplicates()
    assert [seen.add(text) for text in ("?", "!", "?", "")] == [None, None, Twin(0, 1.0), None]


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_near_duplicates_are_exactly_those_above_the_threshold(threshold):
    found = 0
    for seed in range(60):
        base = words(60, seed)
        changed = list(base)
        for place in random.Random(seed).sample(range(60), seed % 7):
            changed[place] = f"x{place}"
        a, b = " ".join(base), " ".join(changed)
        seen = Duplicates(threshold)
        seen.add(a)
        twin, true = seen.add(b), likeness(a, b)
        assert (twin is not None) == (true >= threshold), (seed, true)
        if twin:
            assert twin.place == 0 and twin.likeness == pytest.approx(true if a != b else 1.0)
            found += 1
    assert 10 < found < 55


def test_a_band_agrees_as_often_as_the_likeness_says():
    # P(a minimum agrees) = J, so P(a band of 4 agrees) = J^4; 100 pairs of 32 bands, within 4 standard errors
    agree, expected = [], []
    for seed in range(100):
        a, b = words(80, seed), words(80, seed)
        b[40] = "other"
        hashes = [np.unique(gram_hashes(each, 5)) for each in (a, b)]
        agree += [x == y for x, y in zip(*map(bands_of, hashes), strict=True)]
        expected.append(jaccard(*hashes) ** 4)
    assert np.mean(agree) == pytest.approx(np.mean(expected), abs=4 * (0.25 / 3200) ** 0.5)


def test_the_first_stays_and_chains_do_not_grow():
    # each is like the next, the last is unlike the first: only those like a kept one go
    base = words(100, 1)
    texts = [" ".join([*base[4 * i :], *(f"n{j}" for j in range(4 * i))]) for i in range(6)]
    seen = Duplicates(0.8)
    kept = [i for i, text in enumerate(texts) if seen.add(text) is None]
    assert kept[0] == 0 and 1 < len(kept) < 6
    for a in kept:
        assert all(likeness(texts[a], texts[b]) < 0.8 for b in kept if b != a)
    assert all(
        any(likeness(texts[i], texts[k]) >= 0.8 for k in kept if k < i) for i in set(range(6)) - set(kept)
    )


def test_short_texts_are_one_gram_and_no_near_duplicates():
    seen = Duplicates()
    assert [seen.add(t) for t in ("what is 2 plus 2", "what is 2 plus 3", "2 plus 2")] == [None] * 3


@pytest.mark.parametrize(("threshold", "n"), [(0, 5), (1.1, 5), (0.8, 0)])
def test_settings_that_mean_nothing_are_refused(threshold, n):
    with pytest.raises(UserError, match="likeness"):
        Duplicates(threshold, n)
