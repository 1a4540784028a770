"""n-grams of words as 64-bit hashes, the same in every process: for contamination and near-duplicates."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np

WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


@lru_cache(maxsize=200_000)
def word_hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def mixed(values: np.ndarray) -> np.ndarray:
    """A permutation of 64 bits that leaves no pattern (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def gram_hashes(words: Sequence[str], n: int) -> np.ndarray:
    """One 64-bit hash per n-gram, the same in every process; the place of a word in the n-gram counts."""
    count = max(len(words) - n + 1, 0)
    hashes = np.array([word_hash(word) for word in words], dtype=np.uint64)
    total = np.zeros(count, dtype=np.uint64)
    for place in range(n if count else 0):
        salt = np.uint64(0x9E3779B97F4A7C15 * (place + 1) % 2**64)
        total += mixed(hashes[place : place + count] + salt)
    return total
