"""`rung data rubrics FILE --judge JUDGE --out FILE`: give every row a rubric of its own, grounded in its answer."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

from rung.errors import RunStopped, UserError
from rung.settings_judge import Judging


@dataclass(frozen=True, kw_only=True)
class DataRubrics(Judging):
    """Rows with a column `rubric`, written by a judge that sees each row's reference answer; then train on them with
    `rung rl --env rows:FILE --reward judge.yaml` (by: rubric). Interrupted, the same command goes on where it stopped.
    """

    file: tyro.conf.Positional[str]
    """Rows with a prompt and an answer known to be good, of any form."""
    out: str = ""
    """The JSONL file of the rows with their rubrics."""
    judge_tokens: int = 1536
    """Longest rubric, in tokens."""


def main(settings: DataRubrics) -> int:
    out = Path(settings.out)
    if out.suffix != ".jsonl" or out.exists():
        raise UserError(
            f"rung data rubrics: --out is {settings.out!r}; write the name of a .jsonl file that is not there"
        )
    from rung.data.files import read_rows
    from rung.data.formats import parse_row
    from rung.pipelines.filter import question_and_answer
    from rung.pipelines.judging import open_judge
    from rung.rewards.rubric import read_rubric, rubric_question, written
    from rung.rewards.score import Abstain
    from rung.run import write_atomically

    rows = [(row, *question_and_answer(parse_row(row, origin))) for row, origin in read_rows(settings.file)]
    judge = open_judge(settings, out.with_name(f"{out.stem}.judge.jsonl"), "rung data rubrics")
    answers = judge.ask(
        [rubric_question(prompt, answer, settings.judge_tokens) for _, prompt, answer in rows]
    )
    judge.require_all()
    found = [read_rubric(answer) for answer in answers]
    kept = [
        {**row, "rubric": written(rubric)}
        for (row, _, _), rubric in zip(rows, found, strict=True)
        if not isinstance(rubric, Abstain)
    ]
    drops = Counter(rubric.reason.partition(":")[0] for rubric in found if isinstance(rubric, Abstain))
    lines = [f"rows       {len(rows):,}", f"kept       {len(kept):,}"]
    lines += [f"dropped    {count:,}  {reason}" for reason, count in drops.most_common()]
    if not kept:
        raise RunStopped("no row has a rubric, so nothing was written\n  " + "\n  ".join(lines), 1)
    write_atomically(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    print("\n".join(lines))
    print(f"wrote      {out}")
    return 0
