"""Was the test in the training data? Three looks, none of which proves innocence.

    overlap         share of a test item's words covered by n-grams that the training texts hold (13 by default,
                    as in GPT-3's appendix C)
    min-k% prob     mean log-prob of the least likely k % of an item's tokens (2310.16789): high if memorised
    gap             loss on fresh paraphrases minus loss on the originals, item by item

Words are compared in lower case and without marks. An item shorter than n words cannot be looked up: it is
counted as unknown, never as clean. The index holds 8 bytes per different n-gram and no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rung.data.grams import gram_hashes, words_of
from rung.errors import UserError
from rung.eval.intervals import Estimate, wilson
from rung.eval.paired import Comparison, compare

BLOCK = 4_000_000  # n-grams held before they are sorted into the index: 32 MB


@dataclass(frozen=True)
class Index:
    """The sorted hashes of all n-grams of the training texts."""

    n: int
    hashes: np.ndarray

    def __contains__(self, text: str) -> bool:
        return bool(self.hits(words_of(text)).any())

    def hits(self, words: Sequence[str]) -> np.ndarray:
        """For each n-gram whether it is known. A stranger is taken for known once in 2^64 / size."""
        wanted = gram_hashes(words, self.n)
        if not len(self.hashes):
            return np.zeros(len(wanted), bool)
        places = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return self.hashes[places] == wanted


def build_index(texts: Iterable[str], n: int = 13) -> Index:
    """Texts are read once and let go; what is held is the index and one block."""
    if n < 1:
        raise UserError(f"n-grams of {n} words do not exist; give n of 1 or more, 13 unless you know better")
    hashes = np.empty(0, dtype=np.uint64)
    waiting: list[np.ndarray] = []
    held = 0
    for text in texts:
        waiting.append(gram_hashes(words_of(text), n))
        held += len(waiting[-1])
        if held >= BLOCK:
            hashes, waiting, held = np.union1d(hashes, np.concatenate(waiting)), [], 0
    return Index(n, np.union1d(hashes, np.concatenate(waiting)) if waiting else hashes)


@dataclass(frozen=True)
class Overlap:
    covered: float  # share of the item's words inside a known n-gram; NaN if it is too short to tell
    longest: str  # the longest run of covered words


def overlap(index: Index, text: str) -> Overlap:
    words = words_of(text)
    if len(words) < index.n:
        return Overlap(float("nan"), "")
    inside = np.zeros(len(words), bool)
    for start in np.flatnonzero(index.hits(words)):
        inside[start : start + index.n] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(int), [0]])))
    runs = [words[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    longest = max(runs, key=len) if runs else []
    return Overlap(float(inside.mean()), " ".join(longest))


@dataclass(frozen=True)
class Contamination:
    overlaps: tuple[Overlap, ...]  # one per item
    share: Estimate | None  # of the items that could be looked up, those with any known n-gram
    found: int
    unknown: int  # items shorter than n words


def check(index: Index, items: Sequence[str]) -> Contamination:
    overlaps = tuple(overlap(index, item) for item in items)
    unknown = sum(each.covered != each.covered for each in overlaps)
    found, known = sum(each.covered > 0 for each in overlaps), len(items) - unknown
    share = Estimate(found / known, *wilson(found, known)) if known else None
    return Contamination(overlaps, share, found, unknown)


def min_k_percent(logprobs: Sequence[float], percent: float = 20.0) -> float:
    """Mean log-prob of the `percent` least likely tokens, at least one. Means nothing without a comparison."""
    values = np.sort(np.asarray(logprobs, float))
    if not len(values) or not 0 < percent <= 100:
        raise ValueError("min-k% needs log-probs and a percentage above 0 and up to 100")
    return float(values[: max(1, int(len(values) * percent / 100))].mean())


def separation(suspects: Sequence[float], strangers: Sequence[float]) -> float:
    """The chance that a suspect scores above a text known to be new, ties half (AUC): 0.5 is no sign at all."""
    first, second = np.asarray(suspects, float), np.sort(np.asarray(strangers, float))
    if not len(first) or not len(second):
        raise ValueError("both sides need scores")
    below = np.searchsorted(second, first, "left") + np.searchsorted(second, first, "right")
    return float(below.mean() / (2 * len(second)))


def loss_gap(originals: Sequence[Sequence[float]], fresh: Sequence[Sequence[float]]) -> Comparison:
    """Loss per token on each item's fresh paraphrase minus on the item itself, paired; above 0 is suspicious.

    Both are token log-probs. A paraphrase must be as natural as the original, or the gap is about style.
    """
    pairs = list(zip(originals, fresh, strict=True))
    seen = {str(i): [-float(np.mean(a))] for i, (a, _) in enumerate(pairs)}
    new = {str(i): [-float(np.mean(b))] for i, (_, b) in enumerate(pairs)}
    return compare(seen, new)
