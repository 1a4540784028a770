"""Evaluations for the eye: one table, curves, what the samples cost, how alike they are, and who is ahead.

Two models are compared task by task; of several, each with each, and the p-values then pay for that (Holm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from rung.eval.crossover import Crossover, crossover
from rung.eval.diversity import distinct, self_bleu, word_entropy
from rung.eval.paired import holm
from rung.eval.passk import Curve, pass_at
from rung.eval.records import Sample
from rung.eval.report import aligned, comparison_line, curve_table, plot_curves, tally_table
from rung.eval.tally import compare_samples, scores_by_task
from rung.eval.thinking import thinking_slope
from rung.pipelines.evaluate import Evaluation
from rung.rewards.score import Score

WORDS = 100  # of each answer that diversity looks at, so that long answers do not look more varied


def labelled(evaluations: Sequence[Evaluation]) -> dict[str, Evaluation]:
    """Under short names that tell them apart: the model's, or else the result folder's."""
    short = [Path(each.name).name or each.name for each in evaluations]
    for names in (short, [each.name for each in evaluations], [str(each.path) for each in evaluations]):
        if len(set(names)) == len(names):
            return dict(zip(names, evaluations, strict=True))
    return {f"{i + 1}": each for i, each in enumerate(evaluations)}


def summary(evaluations: Sequence[Evaluation]) -> str:
    """All of it as text."""
    named = labelled(evaluations)
    parts = [tally_table({name: each.tally for name, each in named.items()})]
    parts.append("\n".join(budget_line(name, each) for name, each in named.items()))
    for what, curves in curves_of(named).items():
        parts.append(f"{what}\n{curve_table(curves)}")
    if varied := diversity_table(named):
        parts.append(varied)
    parts += comparisons(named)
    parts += thinking_lines(evaluations)
    return "\n\n".join(parts)


def budget_line(name: str, each: Evaluation) -> str:
    """What was sampled, and how much of it ran into the limit."""
    counted = each.tally
    limit = each.result.header.sampling.get("max_tokens")
    return (
        f"{name}: {counted.tasks:,} tasks x {each.result.header.attempts} = {counted.attempts:,} answers, "
        f"{round(counted.mean_tokens * counted.attempts):,} tokens sampled, {counted.truncated / counted.attempts:.1%} "
        f"cut off at {limit} tokens"
    )


def curves_of(named: Mapping[str, Evaluation]) -> dict[str, dict[str, Curve]]:
    """pass@k and maj@k of those that have more than one attempt at a task."""
    passes = {
        name: e.tally.pass_at for name, e in named.items() if e.tally.pass_at and len(e.tally.pass_at.k) > 1
    }
    majorities = {name: e.majority for name, e in named.items() if e.majority and len(e.majority.k) > 1}
    found = {
        "pass@k: any of k answers is right": passes,
        "maj@k: the most frequent of k answers is right": majorities,
    }
    return {what: curves for what, curves in found.items() if curves}


def plot(evaluations: Sequence[Evaluation], out: Path) -> Path | None:
    """pass@k with bands as a PNG; None where there is one attempt each."""
    named = labelled(evaluations)
    curves = next(iter(curves_of(named).values()), None)
    if curves is None:
        return None
    place = crossing(*named.values()) if len(named) == 2 else None
    plot_curves(curves, out, crossover=(place.k, place.low, place.high) if place else None)
    return out


# ---- diversity ----


def diversity_table(named: Mapping[str, Evaluation]) -> str:
    """Of the answers to one task, mean over tasks; empty where every task has one answer."""
    rows = [["answers to one task", "distinct-2", "self-BLEU", "word entropy"]]
    for name, each in named.items():
        groups = [group for group in answers_by_task(each.result.samples) if len(group) > 1]
        if groups:
            numbers = [
                mean([distinct(group, 2, WORDS) for group in groups]),
                mean([self_bleu(group, words=WORDS) for group in groups]),
                mean([word_entropy(group, WORDS) for group in groups]),
            ]
            rows.append([name, *(f"{number:.3f}" for number in numbers)])
    return aligned(rows) if len(rows) > 1 else ""


def mean(values: Sequence[float]) -> float:
    """Over what is a number: very short answers have no bigram."""
    known = [value for value in values if not isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def answers_by_task(samples: Sequence[Sample]) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for sample in samples:
        found.setdefault(sample.task, []).append(sample.answer)
    return list(found.values())


# ---- two models ----


def comparisons(named: Mapping[str, Evaluation]) -> list[str]:
    """One line for each pair, and where their pass@k curves cross."""
    pairs = list(combinations(named, 2))
    found = [
        compare_samples(named[a].result.samples, named[b].result.samples, named[a].result.header.correct_at)
        for a, b in pairs
    ]
    lines = [comparison_line(a, b, one) for (a, b), one in zip(pairs, found, strict=True)]
    if len(pairs) > 1:
        adjusted = holm([one.p for one in found])
        lines = [f"{line}, {p:.2g} after Holm" for line, p in zip(lines, adjusted, strict=True)]
    crossings = [
        f"pass@k of {b} and {a}: {place}" for a, b in pairs if (place := crossing(named[a], named[b]))
    ]
    return ["\n".join(part) for part in (lines, crossings) if part]


def crossing(base: Evaluation, other: Evaluation) -> Crossover | None:
    """Where the first overtakes the second, on the tasks that both have scored attempts at; None for k = 1 only."""
    at = base.result.header.correct_at
    scores = [scores_by_task(each.result.samples) for each in (base, other)]
    tasks = [task for task, values in scores[0].items() if values and scores[1].get(task)]
    if not tasks:
        return None
    most = min(len(part[task]) for part in scores for task in tasks)
    if most < 2:
        return None
    base_PK, other_PK = (
        np.stack([pass_at(len(part[t]), sum(v >= at for v in part[t]))[:most] for t in tasks])
        for part in scores
    )
    return crossover(base_PK, other_PK)


# ---- one model with several thinking budgets ----


def thinking_lines(evaluations: Sequence[Evaluation]) -> list[str]:
    """Does more thinking help? One line for each model and environment with two forced budgets or more.

    The budgets of a task are compared with each other, so hard tasks cannot pass for long thoughts.
    """
    found: dict[tuple[str, str], dict[int, Evaluation]] = {}
    for each in evaluations:
        budget = each.result.header.sampling.get("think_tokens")
        if budget is not None:
            found.setdefault((each.name, str(each.result.header.data["name"])), {})[budget] = each
    lines = []
    for (model, environment), forced in found.items():
        at = next(iter(forced.values())).result.header.correct_at
        scored: list[tuple[Any, ...]] = [
            (sample.tokens, float(sample.verdict.value >= at), sample.task)
            for each in forced.values()
            for sample in each.result.samples
            if isinstance(sample.verdict, Score)
        ]
        lengths: dict[str, set[int]] = {}
        for tokens, _, task in scored:
            lengths.setdefault(task, set()).add(max(tokens, 1))
        if len(forced) > 1 and sum(len(each) > 1 for each in lengths.values()) > 1:
            tokens_of, right, tasks = ([one[i] for one in scored] for i in range(3))
            slope = thinking_slope(tokens_of, right, tasks)
            budgets = ", ".join(f"{budget:,}" for budget in sorted(forced))
            lines.append(
                f"{Path(model).name or model} on {environment}, thinking of at most {budgets} tokens: accuracy changes "
                f"by {slope.slope} when what is written doubles, within tasks: {slope.verdict}"
            )
    return ["\n".join(lines)] if lines else []
