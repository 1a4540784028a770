"""The rows of a preference command as pairs to train on and pairs held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rung.batch import Feedback, Pair
from rung.data.bias import length_bias
from rung.data.check import kind_of
from rung.data.examples import load_feedback, load_pairs
from rung.data.files import read_rows
from rung.data.kinds import PREFERENCES
from rung.errors import UserError
from rung.methods.preference import PROBABILITY
from rung.models.folder import read_generation_config
from rung.models.hub import load_tokenizer, resolve
from rung.pipelines.stage import check_context, held_out_places
from rung.settings_preference import Preference
from rung.settings_reward import Reward
from rung.sources.feedback import judged_pairs


@dataclass(frozen=True)
class PairData:
    pairs: list[Pair]
    labels: list[bool]  # for kto, the thumb of each pair's first answer; else empty
    sizes: list[int]  # pairs per file
    weights: list[float] | None


@dataclass(frozen=True)
class Rows:
    """What the files hold, before a share is held out."""

    items: Sequence[Pair | Feedback]
    sizes: list[int]
    weights: list[float] | None
    digest: str

    def take(self, places: Sequence[int], sizes: list[int]) -> Rows:
        return Rows([self.items[i] for i in places], sizes, self.weights, self.digest)


def read_pairs(settings: Preference, judged: bool) -> tuple[PairData, PairData | None, str, str]:
    """Training pairs, held-out pairs, the digest of the training files, a warning about lengths or nothing."""
    check_context(settings.model, settings.max_length)
    rows = read(settings, settings.data, judged)
    kept, held_out = rows, None
    if settings.eval_data:
        held_out = read(settings, settings.eval_data, judged)
    elif settings.eval_share:
        inside, outside, sizes = held_out_places(rows.sizes, settings.eval_share, settings.seed)
        kept, held_out = rows.take(inside, sizes), rows.take(outside, [len(outside)])
    compared = [item for item in rows.items if isinstance(item, Pair)]
    warning = length_bias(compared).warning() if compared else ""
    out = paired(held_out, judged, settings.max_length) if held_out else None
    return paired(kept, judged, settings.max_length), out, rows.digest, warning


def reading(settings: Preference | Reward) -> dict[str, Any]:
    """How rows become tokens: what every loader of pairs and judged answers is told."""
    return {
        "tokenizer": load_tokenizer(settings.model),
        "max_length": settings.max_length,
        "overlong": settings.overlong,
        "history_thinking": settings.history_thinking,
        "generation_config": read_generation_config(resolve(settings.model)) or None,
    }


def read(settings: Preference, specs: tuple[str, ...], judged: bool) -> Rows:
    options = reading(settings)
    if judged and any(kind_of(spec) is not PREFERENCES for spec in specs):
        data = load_feedback(specs, **options)
        return Rows(data.feedback, data.sizes, data.weights, data.digest)
    pairs = load_pairs(specs, **options)
    if not settings.soft:
        return Rows(pairs.pairs, pairs.sizes, pairs.weights, pairs.digest)
    chances = read_probabilities(specs)
    soft = [with_column(pair, PROBABILITY, *[chances[pair.chosen.origin]] * 2) for pair in pairs.pairs]
    digest = hashlib.sha256(f"{pairs.digest} {sorted(chances.items())}".encode()).hexdigest()
    return Rows(soft, pairs.sizes, pairs.weights, digest)


def read_probabilities(specs: Sequence[str]) -> dict[str, float]:
    """How sure each row is that its chosen answer is the better one, by the row's origin."""
    found: dict[str, float] = {}
    for spec in specs:
        for row, origin in read_rows(spec):
            value = row.get(PROBABILITY)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value <= 1:
                given = "has no probability" if value is None else f"probability is {value!r}"
                raise UserError(
                    f"{origin}: {given}, and --method.soft reads there how sure it is that chosen is the better "
                    "answer. Write a number from 0.5 to 1, as rung rlaif does, or leave --method.soft out."
                )
            found[origin] = float(value)
    return found


def with_column(pair: Pair, name: str, chosen: float, rejected: float) -> Pair:
    """The pair with a number of its row beside every token of each answer."""
    both = ((pair.chosen, chosen), (pair.rejected, rejected))
    return Pair(*(replace(one, columns={name: np.full(len(one), value, "f4")}) for one, value in both))


def paired(rows: Rows, judged: bool, max_length: int) -> PairData:
    """Pairs as they are; for kto every answer with its thumb, a pair being one of each."""
    if not judged:
        pairs = [item for item in rows.items if isinstance(item, Pair)]
        return PairData(pairs, [], rows.sizes, rows.weights)
    feedback: list[Feedback] = []
    for item in rows.items:
        both = (item,) if isinstance(item, Feedback) else thumbs(item)
        feedback += both
    times = len(feedback) // len(rows.items)
    pairs, labels = judged_pairs(feedback, max_length)
    return PairData(pairs, labels, [times * size for size in rows.sizes], rows.weights)


def thumbs(pair: Pair) -> tuple[Feedback, Feedback]:
    return Feedback(pair.chosen, True), Feedback(pair.rejected, False)
