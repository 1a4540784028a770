"""Does a longer input make the same task harder (Chroma's context-rot report, 2025)? The repeated-words task.

The model copies a text of one word repeated, with one other word somewhere. The task is the same at every
length, no judge is needed, and as the answer is known word for word it can be scored in three ways. Stay
within the context the model was trained for: beyond it one measures extrapolation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LENGTHS = (32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class CopyTask:
    prompt: str
    target: str
    unique: str
    place: int  # of the unique word, counted from 0


def repeated_words(length: int, place: int, common: str = "apple", unique: str = "apples") -> CopyTask:
    if not 0 <= place < length or common == unique or len(common.split()) != 1 or len(unique.split()) != 1:
        raise ValueError(
            f"place {place} must lie in a text of {length} words made of two different single words"
        )
    words = [common] * length
    words[place] = unique
    target = " ".join(words)
    asked = "Copy the following text exactly, word for word, and write nothing else:\n\n"
    return CopyTask(asked + target, target, unique, place)


def places(length: int, count: int = 5) -> list[int]:
    """Evenly spread from the first word to the last, so that position and length are not confused."""
    return sorted({round(i * (length - 1) / max(count - 1, 1)) for i in range(count)})


@dataclass(frozen=True)
class CopyScore:
    similarity: float  # 1 - Levenshtein distance in words over the longer length
    unique_right: bool  # the unique word stands at its place, and there only
    words_over: int  # words written minus words asked for


def score_copy(task: CopyTask, answer: str) -> CopyScore:
    written, target = answer.split(), task.target.split()
    longer = max(len(written), len(target))
    found = [i for i, word in enumerate(written) if word == task.unique]
    similarity = 1 - word_distance(written, target) / longer
    return CopyScore(similarity, found == [task.place], len(written) - len(target))


def word_distance(first: list[str], second: list[str]) -> int:
    """Levenshtein's distance over words, a row at a time.

    Insertions run along the row: row[j] = min over i <= j of (row[i] + j - i), one running minimum of
    row[j] - j.
    """
    numbers = {word: i for i, word in enumerate({*first, *second})}
    others = np.array([numbers[word] for word in second])
    steps = np.arange(len(second) + 1)
    row = steps.copy()
    for i, word in enumerate(first, 1):
        replaced = row[:-1] + (others != numbers[word])
        row = np.concatenate([[i], np.minimum(replaced, row[1:] + 1)])
        row = np.minimum.accumulate(row - steps) + steps
    return int(row[-1])
