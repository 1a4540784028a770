"""`rung score FILE --model RM`: a reward model's scores on rows, and the rows that are worth keeping."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from rung.errors import UserError

if TYPE_CHECKING:
    from rung.pipelines.score_rows import ScoredRow
    from rung.pipelines.scoring import Scorer


@dataclass(frozen=True)
class Score:
    """Add a reward model's scores to rows: `score`, or `chosen_score` and `rejected_score` for pairs.

    What cannot be scored is kept, with `score` null and the reason under `unscored`, and is counted. With
    --threshold or --best only rows that are good enough are written: by score, pairs by the gap of their scores.
    """

    file: tyro.conf.Positional[str]
    """JSONL, JSON or Parquet file, a folder of them, or a hub id, of rows with answers or of pairs."""
    model: tuple[str, ...] = ()
    """Reward models: run folders of `rung reward` or sequence classification folders; several are an ensemble."""
    out: str = ""
    """Write the rows to this JSONL file; without it they are printed."""
    threshold: float | None = None
    """Keep rows with at least this score (pairs: this gap)."""
    best: float | None = None
    """Keep this share of the scored rows, those with the highest scores (pairs: gaps)."""
    combine: Literal["mean", "worst", "uncertain"] = "mean"
    """How an ensemble's scores become one; uncertain is the mean less weight times the variance."""
    weight: float = 1.0
    """What disagreement costs, for uncertain."""
    aggregate: Literal["min", "product", "last", "mean"] = "min"
    """How a process reward model's steps become one score."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of weights and arithmetic; auto is bf16 where the hardware multiplies it natively, else fp32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes the first GPU."""


def main(settings: Score) -> int:
    check(settings)
    from rung.pipelines.score_rows import score_file
    from rung.pipelines.scoring import open_scorer

    scorer = open_scorer(
        settings.model, combine=settings.combine, weight=settings.weight, aggregate=settings.aggregate,
        precision=settings.precision, device=settings.device,
    )  # fmt: skip
    if settings.threshold is not None or settings.best is not None:
        scorer.require_reward()
    rows = list(score_file(settings.file, scorer))
    kept = chosen_rows(rows, settings)
    text = "".join(json.dumps(row.written(), ensure_ascii=False) + "\n" for row in kept)
    if settings.out:
        from rung.run import write_atomically

        write_atomically(Path(settings.out), text)
    else:
        sys.stdout.write(text)
    for name, value in summary(rows, kept, scorer, settings):
        print(f"{name:9} {value}", file=sys.stderr)
    return 0


def check(settings: Score) -> None:
    if settings.out and Path(settings.out).exists():
        raise UserError(f"--out {settings.out} exists, and it is never written over. Choose another name.")
    if settings.best is not None and not 0 < settings.best <= 1:
        raise UserError(
            f"--best is {settings.best}, and it is a share above 0, at most 1. Write for example 0.5."
        )
    if settings.best is not None and settings.threshold is not None:
        raise UserError("--best and --threshold both say which rows to keep. Give one of them.")


def chosen_rows(rows: list[ScoredRow], settings: Score) -> list[ScoredRow]:
    """The rows that are written, in their order."""
    if settings.threshold is None and settings.best is None:
        return rows
    ranks = {i: rank for i, row in enumerate(rows) if (rank := row.rank) is not None}
    if settings.threshold is not None:
        return [rows[i] for i in ranks if ranks[i] >= settings.threshold]
    assert settings.best is not None
    count = round(settings.best * len(ranks))
    best = sorted(ranks, key=lambda i: (-ranks[i], i))[:count]
    return [rows[i] for i in sorted(best)]


def summary(
    rows: list[ScoredRow], kept: list[ScoredRow], scorer: Scorer, settings: Score
) -> Iterator[tuple[str, Any]]:
    import numpy as np

    scored = [row for row in rows if row.rank is not None]
    yield "model", scorer.name
    yield "rows", f"{len(rows):,}, {len(scored):,} scored"
    reasons: dict[str, int] = {}
    for row in rows:
        if row.unscored:
            reason = row.unscored.partition(": ")[2] or row.unscored
            reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:5]:
        yield "unscored", f"{count:,}: {reason}"
    ranks = [row.rank for row in scored if row.rank is not None]
    if ranks:
        low, middle, high = (float(np.quantile(ranks, q)) for q in (0.05, 0.5, 0.95))
        what = "gaps" if scored[0].pair else "scores"
        yield (
            what,
            f"5 % below {low:.3f}, median {middle:.3f}, 5 % above {high:.3f}, mean {np.mean(ranks):.3f}",
        )
    if scored and all(row.pair for row in scored):
        from rung.eval.calibration import calibrate_pairs

        chosen, rejected = ([row.scores[side] for row in scored] for side in (0, 1))
        first, second, better = (rejected, chosen, "lower") if scorer.costly else (chosen, rejected, "higher")
        found = calibrate_pairs(first, second, [row.lengths for row in scored])
        yield "accuracy", f"{found.accuracy}: how often the chosen answer scores {better}"
    if settings.out:
        yield "wrote", f"{settings.out}: {len(kept):,} rows"
