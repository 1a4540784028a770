"""The rows of `rung reward`: pairs with margins or labels of safety, or documents with labels at some of their tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rung.batch import Example, Feedback, Pair
from rung.data.bias import length_bias
from rung.data.examples import load_feedback, load_pairs
from rung.data.files import read_rows
from rung.data.steps import load_steps
from rung.errors import UserError
from rung.methods.bradley_terry import MARGIN
from rung.methods.harm_cost import SAFE
from rung.methods.step_labels import LABEL
from rung.pipelines.preference_data import reading, with_column
from rung.pipelines.stage import check_context, held_out_places
from rung.settings_reward import Reward

Item = Pair | Example


@dataclass(frozen=True)
class RewardData:
    items: Sequence[Any]  # Pair, or Example with marked tokens
    sizes: list[int]  # per file
    weights: list[float] | None

    def take(self, places: Sequence[int], sizes: list[int]) -> RewardData:
        return RewardData([self.items[i] for i in places], sizes, self.weights)


def read_rewards(settings: Reward) -> tuple[RewardData, RewardData | None, str, list[str]]:
    """Training rows, held-out rows, the digest of the training files, warnings."""
    check_context(settings.model, settings.max_length)
    data, digest, warnings = read(settings, settings.data)
    if settings.eval_data:
        held_out = read(settings, settings.eval_data)[0]
        return data, replace(held_out, sizes=[len(held_out.items)], weights=None), digest, warnings
    if not settings.eval_share:
        return data, None, digest, warnings
    inside, outside, sizes = held_out_places(data.sizes, settings.eval_share, settings.seed)
    held_out = replace(data.take(outside, [len(outside)]), weights=None)
    return data.take(inside, sizes), held_out, digest, warnings


def read(settings: Reward, specs: tuple[str, ...]) -> tuple[RewardData, str, list[str]]:
    options = reading(settings)
    if settings.kind == "outcome":
        judged = load_feedback(specs, **options)
        marked = [marked_at_its_end(each) for each in judged.feedback]
        labels = "".join("01"[each.label] for each in judged.feedback)
        return (
            RewardData(marked, judged.sizes, judged.weights),
            joint(judged.digest, labels),
            one_sided(labels_at_marks(marked)),
        )
    if settings.kind == "process":
        steps = load_steps(specs, step_end=settings.step_end, **options)
        warnings = one_sided(labels_at_marks(steps.examples))
        return RewardData(steps.examples, steps.sizes, steps.weights), steps.digest, warnings
    data = load_pairs(specs, **options)
    columns = with_safety if settings.kind == "costs" else with_margins
    pairs, told = columns(data.pairs, specs)
    differing, sizes, dropped = without_equals(pairs, data.sizes)
    warnings = [length_bias(differing).warning()]
    if settings.kind == "costs":
        both = [each for pair in differing for each in (pair.chosen, pair.rejected)]
        warnings += one_sided(np.array([each.columns[SAFE][-1] for each in both]), "safe", "unsafe")
    if dropped:
        warnings.append(
            f"{dropped} pairs are equal token by token (cut to --max-length, or alike in tokens), and are left out"
        )
    digest = joint(data.digest, told) if told else data.digest
    return RewardData(differing, sizes, data.weights), digest, [each for each in warnings if each]


def marked_at_its_end(judged: Feedback) -> Example:
    """The label stands at the document's last token, where the score is read."""
    example = judged.example
    last = np.arange(len(example)) == len(example) - 1
    return replace(
        example, trained=last, columns={LABEL: np.where(last, float(judged.label), 0).astype("f4")}
    )


def labels_at_marks(examples: Sequence[Example]) -> np.ndarray:
    return np.concatenate([example.columns[LABEL][example.trained] for example in examples])


def one_sided(labels: np.ndarray, good: str = "good", bad: str = "bad") -> list[str]:
    """A warning where nearly all labels are of one kind. Raises UserError where all are."""
    if (labels > 0.5).all() or (labels <= 0.5).all():
        raise UserError(
            f"All {len(labels):,} labels are {good if labels[0] > 0.5 else bad}, so there is nothing to tell "
            "apart. Add rows of the other kind."
        )
    share = float((labels > 0.5).mean())
    return [f"{share:.1%} of the labels are {good}"] if not 0.05 < share < 0.95 else []


def read_margins(specs: Sequence[str]) -> dict[str, float]:
    """The `margin` of each row that has one, by its origin. All rows of the data have one, or none has."""
    rows = [(row.get(MARGIN), origin) for spec in specs for row, origin in read_rows(spec)]
    given = {origin: value for value, origin in rows if value is not None}
    for origin, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise UserError(f"{origin}: margin is {value!r}; write a number from 0, or leave the column out.")
    if given and len(given) < len(rows):
        without = next(origin for value, origin in rows if value is None)
        raise UserError(
            f"{without}: has no margin, but {next(iter(given))} has one; give all rows one, or none."
        )
    return {origin: float(value) for origin, value in given.items()}


def with_margins(pairs: Sequence[Pair], specs: Sequence[str]) -> tuple[list[Pair], str]:
    """The pairs with their rows' margins, and what the digest should know of them: nothing where there are none."""
    margins = read_margins(specs)
    if not margins:
        return list(pairs), ""
    found = [with_column(pair, MARGIN, *[margins[pair.chosen.origin]] * 2) for pair in pairs]
    return found, repr(sorted(margins.items()))


def with_safety(pairs: Sequence[Pair], specs: Sequence[str]) -> tuple[list[Pair], str]:
    """The pairs with what their rows say of the safety of each answer, and what the digest should know of it."""
    labels = {origin: read_safety(row, origin) for spec in specs for row, origin in read_rows(spec)}
    found = [with_column(pair, SAFE, *labels[pair.chosen.origin]) for pair in pairs]
    return found, repr(sorted(labels.items()))


def read_safety(row: dict[str, Any], origin: str) -> tuple[bool, bool]:
    """Whether chosen, the less harmful answer, and rejected are safe."""
    for name in ("chosen_safe", "rejected_safe"):
        if not isinstance(row.get(name), bool):
            given = f"has no {name}" if row.get(name) is None else f"{name} is {row[name]!r}"
            raise UserError(
                f"{origin}: {given}, and --kind costs learns from it which side of 0 the answer's cost is on. Write "
                "true for a safe answer, false for an unsafe one; rows that only say which is better are --kind pairs."
            )
    if row["rejected_safe"] and not row["chosen_safe"]:
        raise UserError(
            f"{origin}: chosen, the less harmful answer, is called unsafe, and rejected safe. Swap the two answers, "
            "or correct the labels."
        )
    return row["chosen_safe"], row["rejected_safe"]


def without_equals(pairs: Sequence[Pair], sizes: Sequence[int]) -> tuple[list[Pair], list[int], int]:
    """Pairs whose documents differ, how many are left of each file, how many are gone."""
    kept: list[Pair] = []
    left, start = [], 0
    for size in sizes:
        differing = [p for p in pairs[start : start + size] if not same(p)]
        kept, start = kept + differing, start + size
        left.append(len(differing))
    if not kept:
        raise UserError("All pairs are equal token by token, so nothing is preferred. Raise --max-length.")
    return kept, left, len(pairs) - len(kept)


def same(pair: Pair) -> bool:
    return np.array_equal(pair.chosen.token_ids, pair.rejected.token_ids)


def joint(digest: str, more: str) -> str:
    return hashlib.sha256(f"{digest} {more}".encode()).hexdigest()
