"""Mode collapse: the answers to one prompt become the same answer.

For a group of n attempts with d different texts (up to white space and case) the variety is (d - 1) / (n - 1): 1 if
all differ, 0 if none do. That a solved question with a short answer is answered alike every time is how it should be,
so only groups with room count: those whose mean reward is in the lower half, or whose answers are at least `LONG`
tokens. H0: the mean variety of the last rounds is at most `LOSS` below that of the first. Both are means of values in
[0, 1] over independent groups, so each gets the bound of evidence.py at half the level, which holds for any number
of groups; the finding is that the bounds are further apart than `LOSS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rung.diagnose.evidence import lower_bound
from rung.diagnose.health import Finding
from rung.diagnose.run import LEVEL, Group, Look, Trace
from rung.diagnose.statistics import upper_bound

NAME = "variety of answers"
LONG, LOSS, FEWEST = 32, 0.2, 8
COLLAPSE_REMEDY = (
    "raise the sampling temperature, clip-higher or the entropy bonus, lower the learning rate, add a KL term, or go "
    "back to a checkpoint that still varied; check that sampling is not greedy"
)


def collapse(trace: Trace, level: float = LEVEL) -> Look:
    if trace.store is None:
        return Look(NAME, unseen="no rollouts were kept")
    columns = ["text", "reward", "model_tokens"]
    first, last = (list(trace.groups(rounds, columns)) for rounds in trace.ends())
    middle = middle_of([*first, *last])
    early, late = varieties(first, middle), varieties(last, middle)
    if min(len(early), len(late)) < FEWEST:
        return Look(
            NAME,
            unseen=f"{len(early)} early and {len(late)} late groups of two or more attempts that are unsolved or "
            f"long; {FEWEST} are needed of each",
        )
    before, after = float(np.mean(early)), float(np.mean(late))
    saw = f"{before:.0%} of the attempts at a prompt differed at first, {after:.0%} at last"
    apart = lower_bound(before, len(early), level / 2) - upper_bound(after, len(late), level / 2)
    if apart <= LOSS:
        return Look(NAME, saw)
    repeated = commonest(last)
    evidence = f"{saw} ({len(early)} and {len(late)} groups that are unsolved or long){repeated}"
    return Look(
        NAME, saw, "", (Finding("mode collapse", "warn", trace.rounds[-1], evidence, COLLAPSE_REMEDY),)
    )


def middle_of(groups: Iterable[Group]) -> float:
    rewards = [row["reward"] for group in groups for row in group.rows if row["reward"] is not None]
    return (min(rewards) + max(rewards)) / 2 if rewards else float("nan")


def varieties(groups: Sequence[Group], middle: float) -> list[float]:
    found = []
    for group in groups:
        rewards = [row["reward"] for row in group.rows if row["reward"] is not None]
        unsolved = not rewards or np.mean(rewards) < middle or min(rewards) == max(rewards) == middle
        long = np.mean([row["model_tokens"] for row in group.rows]) >= LONG
        if len(group.rows) >= 2 and (unsolved or long):
            different = len({plain(text) for text in group.texts})
            found.append((different - 1) / (len(group.rows) - 1))
    return found


def plain(text: str) -> str:
    return " ".join(text.lower().split())


def commonest(groups: Sequence[Group]) -> str:
    """The rollout whose text its group repeats most."""
    best, example = 1, ""
    for group in groups:
        texts = [plain(text) for text in group.texts]
        for row, text in zip(group.rows, texts, strict=True):
            if texts.count(text) > best:
                best, example = texts.count(text), row["id"]
    return f"; {best} attempts of one group say what {example} says" if example else ""
