"""Rejection sampling: of everything a model tried, the answers worth training on, and a count of every other.

    tried -> finished -> scored -> right -> (hint not mentioned) -> different path -> at most k of a task

`correct` keeps answers that score at least `threshold` (RFT, 2308.01825), `best` the k highest of each task
(best-of-N), `all` every finished answer whatever its score (simple self-distillation, 2604.01193). An answer that was
cut off never trains: its row would teach an end that the model did not write. An answer without a score is counted
apart and never trains where scores matter. Pure functions of the attempts, in the order they were sampled.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from rung.data.paths import Sameness, path_of

Select = Literal["correct", "best", "all"]
BANDS = ("never", "up to 1/4", "up to 1/2", "up to 3/4", "below 1", "always")


@dataclass(frozen=True)
class Tried:
    """One attempt, as it is judged for training."""

    task: str
    rollout: str  # "12/3": where its tokens are
    stage: str  # "temperature 0.7", "hinted"
    finish: str  # stop, length, abort
    score: float | None  # None: abstained or failed, which is no zero
    messages: tuple[
        Mapping[str, Any], ...
    ]  # the prompt as it will be trained on, then every turn that followed
    asked: int  # how many of them are the prompt
    hinted: bool = False  # it was shown the answer; the prompt in `messages` does not show it
    graded: str = "score"  # score, abstain or failure

    @property
    def text(self) -> str:
        """All that the model wrote."""
        turns = self.messages[self.asked :]
        return "\n".join(str(turn["content"]) for turn in turns if turn["role"] == "assistant")


@dataclass(frozen=True)
class Rule:
    """What is kept."""

    select: Select = "correct"
    threshold: float = 1.0  # of `correct`
    per_task: int = 4
    same: Sameness = "equations"
    drop_stubs: bool = False  # empty answers and those of one line
    shortest_share: float = 0.0  # of what is left, over all tasks, the shortest go
    forbidden: str = ""  # a word that gives a hinted answer away


@dataclass
class Counts:
    """Where every attempt went: `sampled` is the sum of the others."""

    sampled: int = 0
    kept: int = 0
    truncated: int = 0
    abstained: int = 0
    failed: int = 0
    wrong: int = 0
    mentions_hint: int = 0
    stub: int = 0
    duplicate: int = 0
    beyond_per_task: int = 0
    shortest: int = 0

    def __str__(self) -> str:
        parts = [f"{getattr(self, f.name)} {f.name.replace('_', ' ')}" for f in fields(self)[1:]]
        return f"{self.sampled} sampled: " + ", ".join(part for part in parts if not part.startswith("0 "))


@dataclass(frozen=True)
class Selection:
    kept: list[Tried]
    counts: Counts
    fates: list[str] = field(default_factory=list)  # of each attempt, a name of Counts


def select(attempts: Sequence[Tried], rule: Rule) -> Selection:
    fates = [_first_look(one, rule) for one in attempts]
    for members in _of_each_task(attempts, fates):
        if rule.select == "best":
            members.sort(
                key=lambda i: -(attempts[i].score or 0.0)
            )  # stable: the earlier of equals stays first
        paths: set[str] = set()
        for i in members:
            path = path_of(attempts[i].text, rule.same)
            if path in paths:
                fates[i] = "duplicate"
            elif len(paths) >= rule.per_task:
                fates[i] = "beyond_per_task"
            paths.add(path)
    kept = [i for i, fate in enumerate(fates) if fate == "kept"]
    for i in sorted(kept, key=lambda i: len(attempts[i].text))[: int(rule.shortest_share * len(kept))]:
        fates[i] = "shortest"
    counts = Counts(sampled=len(attempts), **Counter(fates))
    return Selection([a for a, fate in zip(attempts, fates, strict=True) if fate == "kept"], counts, fates)


def _first_look(one: Tried, rule: Rule) -> str:
    """What an attempt is by itself, before it is compared with others."""
    if one.finish != "stop":
        return "truncated"
    if rule.select != "all":
        if one.score is None:
            return "abstained" if one.graded == "abstain" else "failed"
        if rule.select == "correct" and one.score < rule.threshold:
            return "wrong"
    if one.hinted and rule.forbidden and rule.forbidden.casefold() in one.text.casefold():
        return "mentions_hint"
    if not one.text.strip() or (rule.drop_stubs and "\n" not in one.text.strip()):
        return "stub"
    return "kept"


def _of_each_task(attempts: Sequence[Tried], fates: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(attempts):
        if fates[i] == "kept":
            groups[one.task].append(i)
    return list(groups.values())


def lacking(tasks: Sequence[str], attempts: Sequence[Tried], rule: Rule) -> list[int]:
    """The places of tasks that have fewer than `per_task` answers yet: what a further stage of sampling is for."""
    have = Counter(one.task for one in select(attempts, rule).kept)
    return [place for place, task in enumerate(tasks) if have[task] < rule.per_task]


def unsolved(tasks: Sequence[str], attempts: Sequence[Tried], rule: Rule) -> list[int]:
    """The places of tasks that were scored and gave nothing to keep: what a hint is for."""
    scored = {one.task for one in attempts if one.score is not None}
    have = {one.task for one in select(attempts, rule).kept}
    return [place for place, task in enumerate(tasks) if task in scored - have]


# ---- how it went, by difficulty ----


def band(right: int, scored: int) -> str:
    """How often a task was solved, in words."""
    rate = right / scored
    if right in (0, scored):
        return BANDS[0] if not right else BANDS[-1]
    return BANDS[1 + min(math.ceil(rate * 4) - 1, 3)]


def by_difficulty(
    attempts: Sequence[Tried], fates: Sequence[str], threshold: float
) -> dict[str, dict[str, int]]:
    """Tasks, attempts and fates for each band of pass rates. Hinted attempts do not say how hard a task is."""
    right, scored = Counter[str](), Counter[str]()
    for one in attempts:
        if one.score is not None and not one.hinted:
            scored[one.task] += 1
            right[one.task] += one.score >= threshold
    bands = {task: band(right[task], scored[task]) for task in scored}
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for one, fate in zip(attempts, fates, strict=True):
        row = table[bands.get(one.task, "unknown")]
        row["sampled"] += 1
        row["correct"] += one.score is not None and one.score >= threshold
        row[fate] += 1
    for task in {one.task for one in attempts}:
        table[bands.get(task, "unknown")]["tasks"] += 1
    return {name: dict(table[name]) for name in (*BANDS, "unknown") if name in table}
