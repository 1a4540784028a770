"""`rung eval winrate A B ... --judge JUDGE`: pairwise win rates by a judge, at equal length too, and Elo."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from rung.errors import UserError
from rung.settings_judge import Judging

if TYPE_CHECKING:
    from rung.rewards.asking import Ledger


@dataclass(frozen=True, kw_only=True)
class EvalWinrate(Judging):
    """Answers against answers: a judge compares two at a time, in both orders. Every judgement is kept in OUT;
    interrupted, the same command goes on where it stopped."""

    sides: tyro.conf.Positional[tuple[str, ...]]
    """Two or more: result folders of `rung eval`, files with prompts and completions, or models (with --prompts)."""
    prompts: str = ""
    """Rows with prompts that models among the sides answer now."""
    limit: int = 0
    """Only the first so many prompts; 0 is all."""
    max_tokens: int = 512
    """Longest answer of a model that answers now."""
    temperature: float = 0.0
    """Of a model that answers now; 0 is greedy."""
    standard: str = ""
    """What the judge goes by, in words; empty is helpful, correct, clear."""
    out: str = "evals/winrate"
    """A folder: report.json, games.jsonl, and everything that was asked."""


def winrate(settings: EvalWinrate) -> int:
    sides = settings.sides
    if len(sides) < 2 or len(set(sides)) < len(sides):
        raise UserError(
            f"rung eval winrate: the sides are {', '.join(sides) or 'none'}; give two or more that differ"
        )
    if settings.max_tokens < 1 or settings.limit < 0 or settings.temperature < 0:
        raise UserError("rung eval winrate: --max-tokens is at least 1, --limit and --temperature at least 0")
    if not settings.judge:
        raise UserError("rung eval winrate: nobody judges; add --judge URL or --judge MODEL")
    from rung.pipelines import winrate as pipeline
    from rung.pipelines.judging import open_judge, open_ledger
    from rung.rewards.judge import STANDARD, Pairwise
    from rung.run import write_atomically

    out = Path(settings.out)

    def ledger_of(name: str) -> Ledger:
        kept = out / f"answers-{hashlib.sha256(name.encode()).hexdigest()[:8]}.jsonl"
        return open_ledger(name, replace(settings, calls=0, tokens=0), kept)

    opened = [
        pipeline.open_side(
            name, settings.prompts, settings.limit, ledger_of, settings.max_tokens, settings.temperature
        )
        for name in sides
    ]
    ledger = open_judge(settings, out / "judgements.jsonl", "rung eval winrate")
    judge = Pairwise(ledger, settings.standard or STANDARD, settings.judge_tokens)
    judged = pipeline.play(opened, judge, settings.limit)
    text = pipeline.report(judged)
    write_atomically(out / "games.jsonl", pipeline.game_lines(judged.games))
    told = json.dumps(pipeline.as_json(judged, ledger.model.name), indent=2)
    write_atomically(out / "report.json", told + "\n")
    print(f"judged by {ledger.model.name}, {ledger.asked:,} questions asked now\n\n{text}\n\nwrote {out}")
    return 0
