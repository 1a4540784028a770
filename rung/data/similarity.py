"""ROUGE-L: how much of two texts is one common subsequence of words (Lin 2004).

P = LCS / |a|,  R = LCS / |b|,  F = 2 P R / (P + R) = 2 LCS / (|a| + |b|)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rung.data.grams import words_of


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """F of two texts as words; 0 where one is empty."""
    return 2 * common_length(a, b) / (len(a) + len(b)) if a and b else 0.0


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, in |a| |b| steps."""
    row = [0] * (len(b) + 1)
    for word in a:
        corner = 0
        for j, other in enumerate(b, 1):
            corner, row[j] = row[j], corner + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


class Pool:
    """Texts, each unlike all others: F below `threshold` to every one of them."""

    def __init__(self, threshold: float):
        self.threshold = threshold
        self.words: list[tuple[list[str], Counter[str]]] = []

    def admit(self, text: str) -> bool:
        """Take a text in, unless it is like one that is there."""
        words = words_of(text)
        counts = Counter(words)
        if any(self._alike(words, counts, *other) for other in self.words):
            return False
        self.words.append((words, counts))
        return True

    def _alike(self, a: list[str], a_counts: Counter[str], b: list[str], b_counts: Counter[str]) -> bool:
        """Words in common, in whatever order, bound the subsequence: most texts need no more than that."""
        bound = 2 * (a_counts & b_counts).total() / max(len(a) + len(b), 1)
        return bound >= self.threshold and rouge_l(a, b) >= self.threshold
