"""`rung data generate MODEL`: new tasks with answers from a few seed tasks, by Self-Instruct or Evol-Instruct."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from rung.errors import RunStopped, UserError
from rung.settings_judge import Asking


@dataclass(frozen=True, kw_only=True)
class DataGenerate(Asking):
    """Tasks and answers written by a model. Interrupted, the same command goes on where it stopped.

    self-instruct: new tasks after the manner of the seeds, unlike each other. evol-instruct: the seeds made harder or
    into others, round by round. Filter what comes with `rung data filter`.
    """

    model: tyro.conf.Positional[str]
    """Who writes: a model, or the http address of an OpenAI-compatible server."""
    method: Literal["self-instruct", "evol-instruct"] = "self-instruct"
    """How tasks are made."""
    seeds: str = ""
    """Rows with the tasks to begin with, of any form: their prompts are used."""
    out: str = ""
    """The JSONL file of rows (messages) that are made."""
    count: int = 100
    """Tasks that self-instruct makes."""
    rounds: int = 1
    """Rounds of evol-instruct; every seed evolves once in each."""
    model_name: str = ""
    """The model's name at its server; not needed where that serves one model."""
    max_tokens: int = 512
    """Longest list, task or answer; what runs into it is dropped."""
    temperature: float = 0.7
    """Of the tasks; answers are greedy."""
    seed: int = 0
    """Which examples are shown and which operations drawn."""


def main(settings: DataGenerate) -> int:
    out = Path(settings.out)
    if not settings.seeds or out.suffix != ".jsonl":
        raise UserError("rung data generate: write --seeds FILE and --out NAME.jsonl")
    if settings.count < 1 or settings.rounds < 1 or settings.max_tokens < 1 or settings.temperature < 0:
        raise UserError(
            "rung data generate: --count, --rounds and --max-tokens are at least 1, --temperature 0"
        )
    if out.exists():
        raise UserError(f"{out} exists, and it is never written over. Choose another --out.")
    from rung.data.prompts import read_prompts
    from rung.pipelines.evolve import evol_instruct
    from rung.pipelines.instruct import self_instruct
    from rung.pipelines.judging import open_ledger
    from rung.run import write_atomically

    seeds = [str(prompt.messages[-1]["content"]) for prompt in read_prompts(settings.seeds)]
    kept = out.with_name(f"{out.stem}.calls.jsonl")
    ledger = open_ledger(settings.model, settings, kept, settings.model_name)
    common = {"max_tokens": settings.max_tokens, "temperature": settings.temperature, "seed": settings.seed}
    if settings.method == "self-instruct":
        made = self_instruct(ledger, seeds, settings.count, tell=tell, **common)  # type: ignore[arg-type]
    else:
        made = evol_instruct(ledger, seeds, settings.rounds, tell=tell, **common)  # type: ignore[arg-type]
    lines = [f"seeds      {len(seeds):,}", f"rows       {len(made.rows):,} of {made.wanted:,}"]
    lines += [f"dropped    {count:,}  {reason}" for reason, count in made.drops.most_common()]
    if not made.rows:
        raise RunStopped("no row is left, so nothing was written\n  " + "\n  ".join(lines), 1)
    write_atomically(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made.rows))
    print("\n".join(lines))
    print(f"wrote      {out}")
    return 0


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
