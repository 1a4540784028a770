"""`rung data filter FILE --out FILE`: keep what is worth training on, and say of every other row why it is not."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from rung.errors import RunStopped, UserError
from rung.settings_judge import Judging


@dataclass(frozen=True, kw_only=True)
class DataFilter(Judging):
    """Quality filter: rules and duplicates first, then, with --judge, marks on six dimensions.

    Dropped rows go to OUT.dropped.jsonl with the rule that fired. Interrupted, the same command judges only the rest.
    """

    file: tyro.conf.Positional[str]
    """JSONL, JSON or Parquet file, a folder of them, or a hub id, of rows to train on, of any form."""
    out: str = ""
    """The JSONL file of rows that are kept."""
    min_words: int = 1
    """Shortest answer, in words."""
    max_words: int = 0
    """Longest answer, in words; 0 is no limit."""
    repeated: float = 0.5
    """Largest share of an answer's 5-grams that stood before in it."""
    likeness: float = 0.8
    """Rows that share this much of their 5-grams are duplicates (Jaccard); 1 exact ones only, 0 none."""
    duplicates_of: Literal["row", "prompt"] = "row"
    """row: prompt and answer together. prompt: one row for each prompt."""
    held_out: tuple[str, ...] = ()
    """Files with test data: rows that share an n-gram with them are dropped."""
    grams: int = 13
    """Words of such an n-gram."""
    least_mean: float = 4.0
    """Lowest mean of the judge's six marks (1 to 5)."""
    least: float = 3.0
    """Lowest single mark."""


def main(settings: DataFilter) -> int:
    out = Path(settings.out)
    if out.suffix != ".jsonl":
        raise UserError(f"rung data filter: --out is {settings.out!r}; write the name of a .jsonl file")
    stem = out.with_suffix("")
    for file in (out, Path(f"{stem}.dropped.jsonl")):
        if file.exists():
            raise UserError(f"{file} exists, and it is never written over. Choose another --out.")
    from rung.pipelines.filter import Rules, filtered
    from rung.pipelines.judging import open_judge
    from rung.rewards.quality import Standard
    from rung.run import write_atomically

    rules = Rules(
        settings.min_words, settings.max_words, settings.repeated, settings.likeness,
        settings.duplicates_of == "row", settings.held_out, settings.grams,
    )  # fmt: skip
    standard = Standard(settings.least_mean, settings.least)
    kept_calls = Path(f"{stem}.judge.jsonl")
    judge = open_judge(settings, kept_calls, "rung data filter") if settings.judge else None
    kept = filtered(settings.file, rules, judge, standard, judge_tokens=settings.judge_tokens, tell=tell)
    lines = [f"rows       {len(kept.rows) + len(kept.dropped):,}", f"kept       {len(kept.rows):,}"]
    lines += [f"dropped    {count:,}  {reason}" for reason, count in kept.reasons.most_common()]
    lines += [f"cleaned    {kept.cleaned:,}  invisible characters, line ends"] if kept.cleaned else []
    if not kept.rows:
        raise RunStopped("no row is left, so nothing was written\n  " + "\n  ".join(lines), 1)
    out.parent.mkdir(parents=True, exist_ok=True)
    for file, rows in ((Path(f"{stem}.dropped.jsonl"), kept.dropped), (out, kept.rows)):
        write_atomically(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print("\n".join(lines))
    print(f"wrote      {out}, {stem}.dropped.jsonl")
    return 0


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
