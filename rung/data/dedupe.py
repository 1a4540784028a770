"""Duplicates: the same text but for case, spaces and marks, and texts that share most of their n-grams.

    J(a, b) = |grams(a) & grams(b)| / |grams(a) | grams(b)|          duplicates have J >= threshold

Candidates are found by MinHash with banding (Broder 1997; Leskovec et al.): 32 bands of 4 minima, so that a pair with
J = 0.8 is missed once in 10^7 and one with J = 0.5 once in eight times. What is found is then compared by its true J,
so no text is dropped for a likeness it does not have. Of duplicates the first stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rung.data.grams import gram_hashes, mixed, words_of
from rung.errors import UserError

BANDS, ROWS = 32, 4
SALTS = mixed(np.arange(1, BANDS * ROWS + 1, dtype=np.uint64))


@dataclass(frozen=True)
class Twin:
    """The earlier text it repeats."""

    place: int  # of that text among all that were added
    likeness: float  # J; 1 for an exact duplicate


@dataclass
class Duplicates:
    """`add` texts one after the other. `n` words a gram; a shorter text is one gram."""

    threshold: float = 0.8
    n: int = 5
    exact: dict[tuple[str, ...], int] = field(default_factory=dict)
    grams: list[np.ndarray] = field(default_factory=list)
    buckets: dict[tuple[int, bytes], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or self.n < 1:
            raise UserError(
                f"duplicates with a likeness of {self.threshold} in {self.n}-grams; write a likeness above 0 and up to "
                "1 (1 finds exact duplicates only), and 1 or more words"
            )

    def add(self, text: str) -> Twin | None:
        """The text it repeats, or None; only what is new is compared with later texts."""
        words = words_of(text)
        key = tuple(words) or ("", text)  # marks alone are told apart as they stand
        place = len(self.grams)
        self.grams.append(np.empty(0, np.uint64))
        if key in self.exact:
            return Twin(self.exact[key], 1.0)
        if words and self.threshold < 1:
            grams = np.unique(gram_hashes(words, min(self.n, len(words))))
            bands = bands_of(grams)
            candidates = sorted({i for band in bands for i in self.buckets.get(band, ())})
            alike = [(jaccard(grams, self.grams[i]), -i) for i in candidates]
            likeness, first = max(alike, default=(0.0, 0))
            if likeness >= self.threshold:
                return Twin(-first, likeness)
            self.grams[place] = grams
            for band in bands:
                self.buckets.setdefault(band, []).append(place)
        self.exact[key] = place
        return None


def bands_of(grams: np.ndarray) -> list[tuple[int, bytes]]:
    minima = mixed(grams[None] ^ SALTS[:, None]).min(1).reshape(BANDS, ROWS)
    return [(band, row.tobytes()) for band, row in enumerate(minima)]


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Of two sets, sorted."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)
