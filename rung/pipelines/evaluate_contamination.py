"""Is the test in the training data? The held-out tasks of an environment against the words of a file.

What all tasks say alike (a request for a form of answer) is left out: it stands in every training prompt of the
same environment and gives nothing away. With a model at hand its min-k% prob is added, which means something
only as a contrast: between the tasks that were found in the file and those that were not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rung.data.files import read_rows
from rung.envs.environment import Task
from rung.errors import UserError
from rung.eval.contamination import Contamination, build_index, check, min_k_percent, separation


@dataclass(frozen=True)
class Found:
    items: tuple[str, ...]  # what was looked for
    tasks: tuple[Task, ...]
    contamination: Contamination
    trained: int  # texts in the file


def contamination(train: str, tasks: Sequence[Task], n: int = 13) -> Found:
    texts = words_of_rows(train)
    items = without_frame([question(task) for task in tasks])
    return Found(tuple(items), tuple(tasks), check(build_index(texts, n), items), len(texts))


def question(task: Task) -> str:
    return "\n".join(str(m.get("content", "")) for m in task.messages if m["role"] != "system")


def without_frame(items: Sequence[str]) -> list[str]:
    """Without the words that all items begin with, and those they all end with."""
    words = [item.split() for item in items]
    if len(words) < 2:
        return list(items)
    before = common(words)
    after = common([part[before:][::-1] for part in words])
    return [" ".join(part[before : len(part) - after]) for part in words]


def common(words: Sequence[Sequence[str]]) -> int:
    """How many words all begin with."""
    first = words[0]
    for length in range(min(map(len, words)), 0, -1):
        if all(part[:length] == first[:length] for part in words):
            return length
    return 0


def words_of_rows(file: str) -> list[str]:
    """All the words of every row, whatever its columns are called; of a .txt file every paragraph."""
    path = Path(file)
    if path.suffix == ".txt" and path.is_file():
        return path.read_text(encoding="utf-8", errors="replace").split("\n\n")
    return ["\n".join(strings(row)) for row, _ in read_rows(file)]


def strings(value: Any) -> list[str]:
    """Every text inside; of messages what is said, not by whom."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, part in value.items() if key != "role" for text in strings(part)]
    return [text for part in value for text in strings(part)] if isinstance(value, list | tuple) else []


@dataclass(frozen=True)
class Memorised:
    """min-k% prob of the tasks with a known n-gram and of those without; `auc` is 0.5 where they are alike."""

    found: float
    clean: float
    auc: float


def memorised(found: Found, logprobs: Sequence[np.ndarray], percent: float = 20.0) -> Memorised:
    """`logprobs` has the token log-probs of each item under the model."""
    covered = [each.covered for each in found.contamination.overlaps]
    known = [(c, each) for c, each in zip(covered, logprobs, strict=True) if c == c and len(each)]
    suspects = [min_k_percent(each.tolist(), percent) for c, each in known if c > 0]
    strangers = [min_k_percent(each.tolist(), percent) for c, each in known if c == 0]
    if not suspects or not strangers:
        raise UserError(
            f"min-k% compares tasks that stand in the file with tasks that do not, and there are {len(suspects)} and "
            f"{len(strangers)} of these; leave the model out"
        )
    return Memorised(float(np.mean(suspects)), float(np.mean(strangers)), separation(suspects, strangers))
