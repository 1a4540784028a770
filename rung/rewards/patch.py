"""How near is a code change to the right one? SWE-RL's reward: the likeness of two unified diffs.

    R = -1                                                  if the form is broken or an edit does not apply
    R = mean over touched files of ratio(model's diff, right diff)         otherwise, between 0 and 1

The model answers <think>...</think><solution>...</solution>; the solution holds edits in code fences:

    ```python
    ### path/of/file.py
    <<<<<<< SEARCH
    lines as they are
    =======
    lines as they should be
    >>>>>>> REPLACE
    ```

The reference is {path: content after the right change} of the files it touches, and the further column
`files` is {path: content before} of all files shown. A file that only one side edits counts 0; no change on
either side counts 1. Source: SWE-RL, arXiv 2502.18449. difflib's ratio is not symmetric: model first, right
second. What the source leaves open and is decided here: an edit is applied once, at the first place it fits, and an
empty SEARCH makes a new file. Not trusted: difflib may take time quadratic in the diffs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rung.rewards.score import Attempt, Failure, Score, Verdict

Files = Mapping[str, str]
Edit = tuple[str, str, str]  # path, search, replace
# Lines decide, so that the time is linear in the text; "\n" belongs to the line before it.
FENCE = re.compile(r"\s*```")


class BrokenForm(ValueError):
    """Why an answer is worth -1."""


@dataclass(frozen=True)
class PatchSimilarity:
    """`tags` False reads edits anywhere in the answer, for models that were not taught the two tags."""

    tags: bool = True

    def __call__(self, attempt: Attempt) -> Verdict:
        before: Any = attempt.extra.get("files")
        right = attempt.reference
        if not _is_files(before) or not _is_files(right):
            return Failure("invalid", "the task needs extra['files'] and a reference, both {path: content}")
        try:
            text = solution(attempt.answer) if self.tags else attempt.answer
            after = apply(edits(text), before)
        except BrokenForm:
            return Score(-1.0, {"applies": 0.0})
        return Score(similarity(before, after, right), {"applies": 1.0})


def solution(text: str) -> str:
    """The inside of <solution>, if text is one non-empty thought and then one solution."""
    marks = ["<think>", "</think>", "<solution>", "</solution>"]
    places = [text.find(mark) for mark in marks]
    if any(text.count(mark) != 1 for mark in marks) or places != sorted(places):
        raise BrokenForm("not exactly one <think>...</think> and then one <solution>...</solution>")
    if not text[places[0] + len("<think>") : places[1]].strip():
        raise BrokenForm("the thought is empty")
    return text[places[2] + len("<solution>") : places[3]]


def edits(text: str) -> list[Edit]:
    """Every SEARCH/REPLACE block inside a fence, in order; a block begun and not ended breaks the form."""
    found: list[Edit] = []
    fenced, path, part = False, "", ""
    search: list[str] = []
    replace: list[str] = []
    for line in text.splitlines():
        if part == "search" and line == "=======":
            part = "replace"
        elif part == "replace" and line == ">>>>>>> REPLACE":
            found.append((path, "\n".join(search), "\n".join(replace)))
            part, search, replace = "", [], []
        elif part:
            (search if part == "search" else replace).append(line)
        elif FENCE.match(line):
            fenced, path = not fenced, ""
        elif fenced and line.startswith("### "):
            path = line[len("### ") :].strip()
        elif fenced and line == "<<<<<<< SEARCH":
            if not path:
                raise BrokenForm("an edit without a '### path' line")
            part = "search"
    if part or not found:
        raise BrokenForm("an edit that does not end" if part else "no SEARCH/REPLACE block in a code fence")
    return found


def apply(found: list[Edit], before: Files) -> dict[str, str]:
    """The edited files. A newline stands before file and search, so a search starts where a line starts."""
    after: dict[str, str] = {}
    for path, search, replace in found:
        known = path in after or path in before
        content = "\n" + after.get(path, before.get(path, ""))
        if search == replace:
            raise BrokenForm(f"an edit of {path} that changes nothing")
        if (known and not search) or (not known and search) or "\n" + search not in content:
            raise BrokenForm(f"the text to replace is not in {path}")
        after[path] = content.replace("\n" + search, "\n" + replace, 1)[1:]
    return after


def similarity(before: Files, after: Files, right: Files) -> float:
    """The mean likeness of the two diffs over the files that either side changed."""
    shares = []
    for path in sorted(set(after) | set(right)):
        old = before.get(path, "")
        model, wanted = diff(old, after.get(path, old)), diff(old, right.get(path, old))
        if model or wanted:
            shares.append(
                difflib.SequenceMatcher(None, model, wanted, autojunk=False).ratio()
            )  # 0 if one is empty
    return sum(shares) / len(shares) if shares else 1.0


def diff(old: str, new: str) -> str:
    """The unified diff with three lines of context, without the two lines that name the files."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=3, lineterm="")
    return "\n".join(list(lines)[2:])


def _is_files(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values())
