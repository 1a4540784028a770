"""One table over the evaluations of a recipe: accuracy and how often the form was broken, with intervals.

    python recipes/r1_measure.py --models cold_start=EVAL reason=EVAL ... --out DIR

Each EVAL is the folder of an `eval` stage with one model. A form is broken where anything but one <think> and then one
<answer> is written (`ThinkFormat`, all of it or nothing). Intervals are 95 % over tasks; the last rows compare each
model with the first, task by task.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rung.errors import UserError
from rung.eval.intervals import Estimate, proportion
from rung.eval.records import Sample
from rung.eval.report import comparison_line
from rung.eval.tally import compare_samples
from rung.pipelines.evaluate import Evaluation, opened
from rung.rewards.score import Attempt, Score
from rung.rewards.think_format import ThinkFormat

WHOLE = ThinkFormat(partial=False)


def read(named: str) -> tuple[str, Evaluation]:
    name, _, folder = named.partition("=")
    found = sorted(Path(folder).glob("*/result.json"))
    if len(found) != 1:
        raise UserError(f"{folder} holds {len(found)} results; give the folder of an eval stage of one model")
    return name, opened(found[0].parent)


def broken(sample: Sample) -> float:
    verdict = WHOLE(Attempt((), sample.answer))
    assert isinstance(verdict, Score)
    return 1 - verdict.value


def broken_share(samples: Sequence[Sample]) -> Estimate:
    """Over tasks, all of whose samples count."""
    tasks: dict[str, list[float]] = {}
    for sample in samples:
        tasks.setdefault(sample.task, []).append(broken(sample))
    count_P = np.array([len(values) for values in tasks.values()])
    return proportion(np.array([sum(values) for values in tasks.values()]), count_P)


def shown(known: Estimate | None) -> str:
    return f"{known.value:.3f} [{known.low:.3f}, {known.high:.3f}]" if known else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=EVAL")
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    measured = dict(read(text) for text in given.models)
    head = ["model", "accuracy, 95 % interval", "form broken, 95 % interval", "cut off", "tokens"]
    rows = [head]
    for name, each in measured.items():
        cut = each.tally.truncated / each.tally.attempts
        share = shown(broken_share(each.result.samples))
        rows.append([name, shown(each.tally.accuracy), share, f"{cut:.0%}", f"{each.tally.mean_tokens:.0f}"])
    first, *others = measured
    lines = [
        comparison_line(
            first, name, compare_samples(measured[first].result.samples, measured[name].result.samples)
        )
        for name in others
    ]
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    table = {"title": "Stage by stage, on held-out tasks", "rows": rows, "notes": lines}
    (out / "table.json").write_text(json.dumps(table, indent=2) + "\n")
    for row in rows:
        print("  ".join(cell.ljust(28) for cell in row).rstrip())
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"r1_measure: {error}") from None
