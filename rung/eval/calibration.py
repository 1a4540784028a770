"""Whether a reward model's sureness can be believed, and whether it is length that it likes.

A pair's probability is sigmoid of the gap of its scores. The model picks the higher score with confidence
max(p, 1 - p); calibrated, it is right that often. The expected calibration error is the mean distance between
the two over bins of confidence, weighed by how many fall in each (Guo et al., 1706.04599).

Of a cost model the pair is turned round, the higher cost being the more harmful answer's, and it is asked besides
whether the sign of each cost is right: above 0 for an unsafe answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rung.eval.intervals import wilson

BINS = 10


@dataclass(frozen=True)
class Share:
    """A proportion with its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.count:,}"


@dataclass(frozen=True)
class LengthReport:
    """How a model's likes go with length, beside how the labels do."""

    prefers_longer: Share  # the model, of pairs that differ in length
    labels_prefer_longer: Share  # the people who chose
    right_when_longer_is_chosen: Share | None  # None where there is no such pair
    right_when_shorter_is_chosen: Share | None
    correlation: float  # of the gaps in score and in tokens; 0 where one does not vary


@dataclass(frozen=True)
class SignReport:
    """Whether 0 lies between a cost model's safe and unsafe answers; a cost of exactly 0 is half right."""

    accuracy: Share
    of_unsafe: Share | None  # of the unsafe answers, those that cost more than 0; None where there is none
    of_safe: Share | None  # of the safe ones, those below

    def __str__(self) -> str:
        sides = [("unsafe answers above 0", self.of_unsafe), ("safe ones below", self.of_safe)]
        found = [f"{share.value:.1%} of the {share.count:,} {name}" for name, share in sides if share]
        return f"{self.accuracy} right: {', '.join(found)}"


@dataclass(frozen=True)
class Calibration:
    """What a reward model is worth on held-out rows."""

    accuracy: Share  # a tie of scores counts half
    calibration_error: float
    confidence: float  # mean; above the accuracy it is too sure
    by_length: tuple[tuple[int, int, Share], ...]  # thirds by mean tokens of an answer: from, to, accuracy
    mean: float  # of all scores
    deviation: float
    length: LengthReport | None = None  # of pairs only
    sign: SignReport | None = None  # of costs only

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[tuple[str, str]]:
        """Names and values, for a reader."""
        thirds = ", ".join(f"{low}-{high}: {share.value:.1%}" for low, high, share in self.by_length)
        found = [
            ("accuracy", str(self.accuracy)),
            ("sureness", f"{self.confidence:.1%} on average, calibration error {self.calibration_error:.3f}"),
            ("by length", f"{thirds} (tokens of the answer: accuracy)"),
            ("scores", f"mean {self.mean:.3f}, deviation {self.deviation:.3f}"),
        ]
        if self.sign is not None:
            found.append(("sign", str(self.sign)))
        if self.length is not None:
            found += [
                ("longer", f"preferred by the model in {self.length.prefers_longer.value:.1%} of pairs, by the labels "
                           f"in {self.length.labels_prefer_longer.value:.1%}; gaps of score and length correlate "
                           f"{self.length.correlation:+.2f}"),
            ]  # fmt: skip
        return found

    def verdict(self) -> str:
        """One sentence: whether this model can be relied on at all."""
        sign = f"; sign of the cost right for {self.sign.accuracy}" if self.sign else ""
        if self.accuracy.low > 0.5:
            sure = "" if self.calibration_error < 0.1 else ", though it is not as right as it is sure"
            return f"accuracy {self.accuracy} on held-out rows, above chance{sure}{sign}"
        return f"accuracy {self.accuracy} on held-out rows: it cannot be told from a coin{sign}"


def calibrate_pairs(
    chosen: Sequence[float], rejected: Sequence[float], tokens: Sequence[tuple[int, int]]
) -> Calibration:
    """`tokens` are those of the chosen and of the rejected answer of each pair."""
    gap_P, tokens_P2 = np.subtract(chosen, rejected), np.asarray(tokens, float).reshape(-1, 2)
    right_P = np.where(gap_P == 0, 0.5, gap_P > 0)
    confidence_P = 1 / (1 + np.exp(-np.abs(gap_P)))
    return report(
        right_P, confidence_P, tokens_P2.mean(1), [*chosen, *rejected], of_lengths(gap_P, right_P, tokens_P2)
    )


def calibrate_costs(
    chosen: Sequence[float],
    rejected: Sequence[float],
    safe: Sequence[tuple[float, float]],
    tokens: Sequence[tuple[int, int]],
) -> Calibration:
    """Costs of the less and of the more harmful answer of each pair; `safe` says of each whether it is safe."""
    order = calibrate_pairs([-cost for cost in chosen], [-cost for cost in rejected], tokens)
    cost_P2, safe_P2 = np.stack([chosen, rejected], 1), np.asarray(safe).reshape(-1, 2) > 0.5
    right_P2 = np.where(cost_P2 == 0, 0.5, (cost_P2 < 0) == safe_P2)
    sides = [right_P2[these] for these in (~safe_P2, safe_P2)]
    shares = [share_of(side) if len(side) else None for side in sides]
    return replace(order, mean=-order.mean, sign=SignReport(share_of(right_P2.reshape(-1)), *shares))


def calibrate_labels(values: Sequence[float], labels: Sequence[float], tokens: Sequence[int]) -> Calibration:
    """Values of marked tokens against their labels. A soft label counts as what it is nearer to."""
    values_M, positive_M = np.asarray(values, float), np.asarray(labels) > 0.5
    right_M = np.where(values_M == 0, 0.5, (values_M > 0) == positive_M)
    return report(right_M, 1 / (1 + np.exp(-np.abs(values_M))), np.asarray(tokens, float), values)


def report(
    right_P: np.ndarray, confidence_P: np.ndarray, tokens_P: np.ndarray, scores: Sequence[float],
    length: LengthReport | None = None,
) -> Calibration:  # fmt: skip
    if not len(right_P) or not np.isfinite(scores).all():
        raise ValueError(
            f"a calibration needs finite scores of at least one row, and got {len(right_P)} rows"
        )
    return Calibration(
        share_of(right_P),
        expected_error(right_P, confidence_P),
        float(confidence_P.mean()),
        thirds(right_P, tokens_P),
        float(np.mean(scores)),
        float(np.std(scores)),
        length,
    )


def expected_error(right: np.ndarray, confidence: np.ndarray, bins: int = BINS) -> float:
    """sum over bins of n_b / n |accuracy_b - confidence_b|, bins of equal width over [1/2, 1]."""
    which = np.minimum((2 * bins * (confidence - 0.5)).astype(int), bins - 1)
    gaps = np.bincount(which, right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def thirds(right: np.ndarray, tokens: np.ndarray) -> tuple[tuple[int, int, Share], ...]:
    order = np.argsort(tokens, kind="stable")
    parts = [part for part in np.array_split(order, 3) if len(part)]
    return tuple((int(tokens[p].min()), int(tokens[p].max()), share_of(right[p])) for p in parts)


def of_lengths(gap: np.ndarray, right: np.ndarray, tokens_P2: np.ndarray) -> LengthReport | None:
    longer_P = tokens_P2[:, 0] - tokens_P2[:, 1]
    differ = longer_P != 0
    if not differ.any():
        return None
    gap, right, longer_P = gap[differ], right[differ], longer_P[differ]
    liked = np.where(gap == 0, 0.5, (gap > 0) == (longer_P > 0))
    varies = gap.std() > 0 and longer_P.std() > 0
    return LengthReport(
        share_of(liked),
        share_of(longer_P > 0),
        share_of(right[longer_P > 0]) if (longer_P > 0).any() else None,
        share_of(right[longer_P < 0]) if (longer_P < 0).any() else None,
        float(np.corrcoef(gap, longer_P)[0, 1]) if varies else 0.0,
    )


def share_of(right: np.ndarray) -> Share:
    total = float(np.sum(right))
    return Share(total / len(right), *wilson(total, len(right)), len(right))
