"""Goblins: words, phrases and marks of formatting that have spread through the answers since the start.

A reward that likes a phrase teaches the phrase (and one that likes goblins fills answers with goblins). For each
feature x of words.py and each group of attempts, let s be the share of its attempts that hold x; the groups, not the
attempts, are independent. The first and the last quarter of the rounds are compared by

    T(x) = (mean of s, late - mean of s, early) / standard deviation of s over all groups

and the null hypothesis for all features together is that late and early groups are exchangeable. Then the groups may
be dealt anew into early and late, and the largest T over all features in `DEALS` such deals is what chance can do with
the best of thousands of words: a feature above the (1 - level) quantile of these maxima is no chance, and the chance
of naming any at all is at most the level (Westfall and Young 1993; no assumption on rare words or on their overlap).

What differs by more than chance need not be a surge. Named is only what is now in `SPREAD` more of the answers than
before, `TIMES` as often, and not made of words of the prompts alone: a format that the task asks for is no goblin. So
only features in that share of all groups are tested, a choice that the deals do not change.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rung.diagnose.health import Finding
from rung.diagnose.run import LEVEL, Group, Look, Trace
from rung.diagnose.words import MARKS, features

NAME = "words and formatting"
SPREAD, TIMES = 0.2, 3.0
DEALS, MOST_GROUPS, FEWEST_GROUPS = 999, 128, 8
ASKED = 0.02  # a feature in this share of the prompts was asked for
NAMED = 5
SURGE_REMEDY = (
    "read it (rung rollouts RUN --contains ...): is it paid for rather than useful? bound or drop the part of the "
    "reward that likes it, penalise it, or raise the KL penalty"
)


@dataclass(frozen=True)
class Surge:
    feature: str
    early: float  # share of the answers that held it
    late: float
    paid: float | None  # within a group, reward of the answers with it less that of those without
    holders: tuple[str, ...]  # ids of the late rollouts with it


def goblins(trace: Trace, level: float = LEVEL, seed: int = 0) -> Look:
    if trace.store is None:
        return Look(NAME, unseen="no rollouts were kept")
    columns = ["text", "prompt", "reward"]
    early, late = (sample(list(trace.groups(rounds, columns)), seed) for rounds in trace.ends())
    if min(len(early), len(late)) < FEWEST_GROUPS:
        counts = f"{len(early)} and {len(late)} groups in the first and last quarter of the rounds"
        return Look(NAME, unseen=f"{counts}, and {FEWEST_GROUPS} are needed of each")
    found = surges(early, late, level, seed)
    saw = f"{len(early)} early and {len(late)} late groups of answers"
    blind = (
        "prompts were not kept, so what they ask for is not known" if not early[0].rows[0]["prompt"] else ""
    )
    if not found:
        return Look(NAME, f"no word, phrase or mark spread through the answers; {saw}", blind)
    named = "; ".join(map(described, found[:NAMED])) + (
        f"; and {len(found) - NAMED} more" * (len(found) > NAMED)
    )
    finding = Finding("phrase surge", "warn", late[-1].round, named, SURGE_REMEDY)
    return Look(NAME, saw, blind, (finding,))


def described(surge: Surge) -> str:
    pay = "" if surge.paid is None else f", paid {surge.paid:+.2g} within a group"
    rates = f"in {surge.early:.0%} of the first answers, {surge.late:.0%} of the last"
    return f"{surge.feature!r} {rates}{pay}, as in {surge.holders[-1]}"


def sample(groups: list[Group], seed: int) -> list[Group]:
    """At most `MOST_GROUPS` of them, drawn without a look at their texts; in order."""
    if len(groups) <= MOST_GROUPS:
        return groups
    chosen = np.random.default_rng(seed).choice(len(groups), MOST_GROUPS, replace=False)
    return [groups[i] for i in sorted(chosen)]


def surges(early: Sequence[Group], late: Sequence[Group], level: float, seed: int) -> list[Surge]:
    """The features that spread, those of the most answers first; of overlapping phrases one stands for all."""
    names, shares, holds = table([*early, *late], fewest=max(2, math.ceil(SPREAD * len(late))))
    if not names:
        return []
    rises = shares[len(early) :].mean(axis=0) - shares[: len(early)].mean(axis=0)
    deviations = shares.std(axis=0)
    chance = largest_by_chance(shares / deviations, len(late), level, seed)
    asked = asked_for([*early, *late])
    picked = []
    for j in np.flatnonzero(rises / deviations > chance):
        first, last = float(shares[: len(early), j].mean()), float(shares[len(early) :, j].mean())
        if not asked >= set(words_of(names[j])) and last - first >= SPREAD and last >= TIMES * first:
            paid, holders = price(names[j], late, holds[len(early) :])
            picked.append(Surge(names[j], first, last, paid, holders))
    return distinct(
        sorted(picked, key=lambda surge: (-round(surge.late - surge.early, 2), -len(surge.feature)))
    )


def table(groups: Sequence[Group], fewest: int) -> tuple[list[str], np.ndarray, list[list[set[str]]]]:
    """Features that `fewest` groups hold and not all alike; their shares by group; which attempts hold which.

    The texts are gone through twice, since the features of all of them at once may not fit into memory.
    """
    counts = Counter(
        name for group in groups for name in set().union(*(features(text) for text in group.texts))
    )
    place = {name: j for j, name in enumerate(sorted(name for name, n in counts.items() if n >= fewest))}
    holds = [[features(text) & place.keys() for text in group.texts] for group in groups]
    shares = np.zeros((len(groups), len(place)), np.float32)
    for i, attempts in enumerate(holds):
        for held in attempts:
            shares[i, [place[name] for name in held]] += 1 / len(attempts)
    varied = np.ptp(shares, axis=0) > 1e-6 if len(place) else np.zeros(0, bool)
    return [name for name, keep in zip(place, varied, strict=True) if keep], shares[:, varied], holds


def largest_by_chance(scaled: np.ndarray, count: int, level: float, seed: int) -> float:
    """What the largest standardised rise exceeds with probability `level`, `count` groups drawn to be late."""
    rng, total = np.random.default_rng(seed), len(scaled)
    deals = np.full((DEALS, total), -1 / (total - count), np.float32)
    for deal in deals:
        deal[rng.choice(total, count, replace=False)] = 1 / count
    largest = np.full(DEALS, -np.inf)
    for start in range(0, scaled.shape[1], 2000):
        largest = np.maximum(largest, (deals @ scaled[:, start : start + 2000]).max(axis=1))
    # The true deal is one of DEALS + 1 that are equally likely: it must beat all but floor(level (DEALS + 1)) - 1.
    kept = DEALS - max(int(level * (DEALS + 1)), 1)
    return float(np.sort(largest)[kept]) + 1e-5


def asked_for(groups: Sequence[Group]) -> set[str]:
    """What the prompts hold."""
    prompts = [features(group.rows[0]["prompt"]) for group in groups if group.rows[0]["prompt"]]
    counts = Counter(name for prompt in prompts for name in prompt)
    return {name for name, count in counts.items() if count >= ASKED * len(prompts)}


def words_of(feature: str) -> list[str]:
    return [feature] if feature in MARKS else feature.split()


def price(
    feature: str, groups: Sequence[Group], holds: list[list[set[str]]]
) -> tuple[float | None, tuple[str, ...]]:
    """What an answer with the feature got more than one without, within groups that have both; which hold it."""
    gaps, holders = [], list[str]()
    for group, held in zip(groups, holds, strict=True):
        pairs = [(row["reward"], feature in names) for row, names in zip(group.rows, held, strict=True)]
        having = [reward for reward, there in pairs if there and reward is not None]
        lacking = [reward for reward, there in pairs if not there and reward is not None]
        if having and lacking:
            gaps.append(np.mean(having) - np.mean(lacking))
        holders += [row["id"] for row, names in zip(group.rows, held, strict=True) if feature in names]
    return (float(np.mean(gaps)) if gaps else None), tuple(holders)


def distinct(found: list[Surge]) -> list[Surge]:
    """Without phrases that stand for one already there: that share a word with it, or are in the same answers."""
    kept: list[Surge] = []
    for surge in found:
        words, holders = set(words_of(surge.feature)), set(surge.holders)
        same = (
            other
            for other in kept
            if words & set(words_of(other.feature))
            or (
                surge.feature not in MARKS
                and other.feature not in MARKS
                and len(holders & set(other.holders)) > 0.8 * len(holders | set(other.holders))
            )
        )
        if next(same, None) is None:
            kept.append(surge)
    return kept
