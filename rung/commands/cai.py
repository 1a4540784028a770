"""`rung cai MODEL`: critique and revision by a constitution. `rung rlaif MODEL`: two answers, labelled by a judge."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from rung.errors import RunStopped, UserError
from rung.settings_judge import Judging

if TYPE_CHECKING:
    from rung.pipelines.constitutional import Rows
    from rung.rewards.asking import Ledger


@dataclass(frozen=True, kw_only=True)
class Writing(Judging):
    """What both commands ask for."""

    model: tyro.conf.Positional[str]
    """Who answers: a model, or the http address of an OpenAI-compatible server."""
    prompts: str = ""
    """Rows with prompts, of any form: JSONL, JSON or Parquet file, a folder of them, or a hub id."""
    constitution: str = ""
    """A YAML list of principles; recipes/constitution.yaml is one."""
    out: str = ""
    """A folder: the rows that were made, report.json, and everything that was asked."""
    model_name: str = ""
    """The model's name at its server; not needed where that serves one model."""
    limit: int = 0
    """Only the first so many prompts; 0 is all."""
    max_tokens: int = 512
    """Longest answer; what runs into it is dropped."""
    temperature: float = 1.0
    """Of the answers. Critiques, revisions and labels are greedy."""
    seed: int = 0
    """Answers, and which principle a prompt meets."""


@dataclass(frozen=True, kw_only=True)
class Cai(Writing):
    """Constitutional AI: answer, criticise by a principle, revise; rows for SFT (the last revision) and pairs (initial
    answer rejected, last revision chosen). Interrupted, the same command goes on where it stopped.

    Without --judge the model is its own critic.
    """

    rounds: int = 1
    """Critiques and revisions in a row, 1 to 3, each by another principle."""


@dataclass(frozen=True, kw_only=True)
class Rlaif(Writing):
    """Two answers to each prompt, compared by a judge under a principle; pairs with the judge's probability.

    Without --judge the model judges itself. Interrupted, the same command goes on where it stopped.
    """

    reason: bool = False
    """The judge reasons before it chooses; its probability is then clamped to 0.4 .. 0.6."""
    tie: float = 0.0
    """A probability this close to one half is a tie and makes no pair."""


def cai(settings: Cai) -> int:
    if not 1 <= settings.rounds <= 3:
        raise UserError(f"rung cai: --rounds is {settings.rounds}; write 1, 2 or 3")
    out, prompts, constitution = begin(settings, "cai", ("sft", "pairs"))
    from rung.pipelines.constitutional import constitutional

    writer, critic = ledgers(settings, out)
    rows = constitutional(
        writer, critic, prompts, constitution,
        rounds=settings.rounds, max_tokens=settings.max_tokens, critique_tokens=settings.judge_tokens,
        temperature=settings.temperature, seed=settings.seed, tell=tell,
    )  # fmt: skip
    return finish(out, {"sft": rows.sft, "pairs": rows.pairs}, rows, len(prompts), writer, critic)


def rlaif(settings: Rlaif) -> int:
    if not 0 <= settings.tie < 0.5:
        raise UserError(f"rung rlaif: --tie is {settings.tie}; write 0 or more, and less than 0.5")
    out, prompts, constitution = begin(settings, "rlaif", ("pairs",))
    from rung.pipelines.constitutional import labelled

    writer, judge = ledgers(settings, out)
    rows = labelled(
        writer, judge, prompts, constitution,
        max_tokens=settings.max_tokens, judge_tokens=settings.judge_tokens, temperature=settings.temperature,
        reason=settings.reason, tie=settings.tie, seed=settings.seed, tell=tell,
    )  # fmt: skip
    return finish(out, {"pairs": rows.pairs}, rows, len(prompts), writer, judge)


def begin(settings: Writing, command: str, kinds: Sequence[str]) -> tuple[Path, Any, Any]:
    """Everything that can be wrong before a model is loaded, and what the run reads."""
    for name, example in (("prompts", "FILE.jsonl"), ("constitution", "FILE.yaml"), ("out", "FOLDER")):
        if not getattr(settings, name):
            raise UserError(f"rung {command}: nothing was given for {name}; add --{name} {example}")
    if settings.max_tokens < 1 or settings.limit < 0 or settings.temperature < 0:
        raise UserError(
            f"rung {command}: --max-tokens {settings.max_tokens}, --limit {settings.limit}, --temperature "
            f"{settings.temperature}; write at least 1, 0 and 0"
        )
    out = Path(settings.out)
    for file in (out / name for name in (*(f"{kind}.jsonl" for kind in kinds), "report.json")):
        if file.exists():
            raise UserError(f"{file} exists, and it is never written over. Choose another --out.")
    from rung.data.prompts import read_prompts
    from rung.rewards.constitution import load_constitution

    constitution = load_constitution(Path(settings.constitution))
    return out, read_prompts(settings.prompts, settings.limit), constitution


def ledgers(settings: Writing, out: Path) -> tuple[Ledger, Ledger]:
    """The writer's and the critic's, which are one where the model is its own critic."""
    from rung.pipelines.judging import open_ledger

    kept = out / "calls.jsonl"
    writer = open_ledger(settings.model, settings, kept, settings.model_name)
    if settings.judge in ("", settings.model) and settings.judge_name in ("", settings.model_name):
        return writer, writer
    return writer, open_ledger(
        settings.judge or settings.model, settings, out / "judge.jsonl", settings.judge_name
    )


def finish(
    out: Path, files: dict[str, list[Any]], rows: Rows, prompts: int, writer: Ledger, judge: Ledger
) -> int:
    """Write what was made, or say with counts that nothing was."""
    counts = {"prompts": prompts, **{kind: len(made) for kind, made in files.items()}}
    report = {**counts, "dropped": dict(rows.drops), "notes": dict(rows.notes)}
    report["models"] = {"writer": writer.model.name, "judge": judge.model.name}
    lines = [f"{name:10} {value:,}" for name, value in counts.items()]
    lines += [f"dropped    {count:,}  {reason}" for reason, count in rows.drops.most_common()]
    lines += [f"           {count:,}  {reason}" for reason, count in rows.notes.most_common()]
    if not files["pairs"]:
        raise RunStopped("no pair is left, so nothing was written\n  " + "\n  ".join(lines), 1)
    from rung.run import write_atomically

    for kind, made in files.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
        write_atomically(out / f"{kind}.jsonl", text)
    write_atomically(out / "report.json", json.dumps(report, indent=2) + "\n")
    print("\n".join(lines))
    for kind in files:
        print(f"wrote      {out / kind}.jsonl")
    return 0


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
