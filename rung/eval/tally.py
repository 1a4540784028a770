"""From samples to numbers. What was not scored is counted and shown, and is never a zero.

Accuracy is right over scored attempts. Beside it stand the bounds it would have if every unscored attempt had
been wrong, or right: where these are far apart, the graders and not the model were measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rung.eval.intervals import Estimate, proportion
from rung.eval.paired import Comparison, compare
from rung.eval.passk import Curve, curve, majority_at, pass_curve
from rung.eval.records import Sample
from rung.rewards.score import Abstain, Failure, Score


@dataclass(frozen=True)
class Tally:
    tasks: int
    attempts: int
    scored: int
    abstained: int
    failures: dict[str, int]  # kind -> how many
    truncated: int  # attempts that ran into their token limit, scored or not
    mean_tokens: float
    accuracy: Estimate | None  # None if nothing was scored; the interval is over tasks
    worst: float  # accuracy if every unscored attempt were wrong
    best: float  # if every one were right
    mean_score: float | None
    unscored_tasks: int  # tasks without a single scored attempt
    pass_at: Curve | None

    def numbers(self) -> dict[str, Any]:
        """Plain JSON."""
        shown = asdict(self)
        if self.pass_at:
            shown["pass_at"] = {
                k: v.tolist() if hasattr(v, "tolist") else v for k, v in vars(self.pass_at).items()
            }
        return shown


def tally(samples: Iterable[Sample], correct_at: float = 1.0, seed: int = 0) -> Tally:
    """Right means a score of at least `correct_at`."""
    everything = list(samples)
    tasks = list(dict.fromkeys(sample.task for sample in everything))
    scores = scores_by_task(everything)
    scored = np.array([len(scores[task]) for task in tasks], int)
    right = np.array([sum(v >= correct_at for v in scores[task]) for task in tasks], int)
    total, known, correct = len(everything), int(scored.sum()), int(right.sum())
    if not total:
        raise ValueError("there are no samples to count")
    return Tally(
        tasks=len(tasks),
        attempts=total,
        scored=known,
        abstained=sum(isinstance(s.verdict, Abstain) for s in everything),
        failures=dict(
            sorted(Counter(s.verdict.kind for s in everything if isinstance(s.verdict, Failure)).items())
        ),
        truncated=sum(s.finish == "length" for s in everything),
        mean_tokens=sum(s.tokens for s in everything) / total,
        accuracy=proportion(right, scored, seed=seed) if known else None,
        worst=correct / total,
        best=(correct + total - known) / total,
        mean_score=sum(v for task in tasks for v in scores[task]) / known if known else None,
        unscored_tasks=int((scored == 0).sum()),
        pass_at=pass_curve(scored.tolist(), right.tolist(), seed=seed) if known else None,
    )


def scores_by_task(samples: Iterable[Sample]) -> dict[str, list[float]]:
    """The scored values of every task, in the order of attempts; a task may have none."""
    found: dict[str, list[float]] = {}
    for sample in samples:
        mine = found.setdefault(sample.task, [])
        if isinstance(sample.verdict, Score):
            mine.append(sample.verdict.value)
    return found


def compare_samples(
    base: Iterable[Sample], other: Iterable[Sample], correct_at: float | None = 1.0
) -> Comparison:
    """Two models on the same tasks, paired: in accuracy, or in mean score where `correct_at` is None."""

    def values(samples: Iterable[Sample]) -> dict[str, list[float]]:
        scores = scores_by_task(samples)
        if correct_at is None:
            return scores
        return {task: [float(v >= correct_at) for v in part] for task, part in scores.items()}

    return compare(values(base), values(other))


def majority_curve(
    samples: Sequence[Sample], vote: Callable[[str], str | None], correct_at: float = 1.0, seed: int = 0
) -> Curve:
    """maj@k. `vote` makes an answer's ballot, None for none; unscored attempts do not vote.

    Equal ballots should have equal verdicts; where a grader is inconsistent, the ballot is right if most of
    its attempts are.
    """
    ballots: dict[str, list[tuple[str | None, bool]]] = {sample.task: [] for sample in samples}
    for sample in samples:
        if isinstance(sample.verdict, Score):
            ballots[sample.task].append((vote(sample.answer), sample.verdict.value >= correct_at))
    kept = [part for part in ballots.values() if part]
    if not kept:
        raise ValueError("no attempt was scored, so there is no majority")
    most = min(len(part) for part in kept)
    rows = np.stack([task_majority(part)[:most] for part in kept])
    return curve(rows, left_out=len(ballots) - len(kept), seed=seed)


def task_majority(ballots: Sequence[tuple[str | None, bool]]) -> np.ndarray:
    counts = Counter(ballot for ballot, _ in ballots if ballot is not None)
    agreeing = Counter(ballot for ballot, right in ballots if right and ballot is not None)
    right = [2 * agreeing[ballot] > votes for ballot, votes in counts.items()]
    return majority_at(list(counts.values()), right, blank=sum(ballot is None for ballot, _ in ballots))
