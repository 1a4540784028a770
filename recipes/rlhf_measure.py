"""What a reward model says of the answers of several policies to the same held-out prompts; `recipes/rlhf.yaml` uses it.

    python recipes/rlhf_measure.py --reward-model RM --answers base=A.jsonl tuned=B.jsonl --out DIR

Each file holds rows of prompt and completion, in one order. For every policy: the mean score, how often it beats the
first one's answer to the same prompt (a tie is half), both with 95 % intervals over prompts, and the mean length, since
a reward model may just like long answers. The judge here is the reward model that the policies were trained on, so a gain
says that they learned what it likes and not that people would agree; `rung eval winrate` asks another judge.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from rung.errors import UserError
from rung.eval.intervals import bootstrap
from rung.pipelines.scoring import Member, Scorer
from rung.rewards.score import Score


def read(file: str) -> list[tuple[tuple, str]]:
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    return [(tuple(row["prompt"]), row["completion"]) for row in rows]


def scores(scorer: Scorer, rows: list[tuple[tuple, str]]) -> np.ndarray:
    """nan where there is no score: an empty answer is none, and no score is not a bad one."""
    verdicts = scorer.verdicts([(prompt, ({"role": "assistant", "content": text},)) for prompt, text in rows])
    return np.array([verdict.value if isinstance(verdict, Score) else np.nan for verdict in verdicts])


def measured(values_P: np.ndarray) -> str:
    found = bootstrap(lambda drawn: float(values_P[drawn].mean()), len(values_P))
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reward-model", required=True)
    parser.add_argument("--answers", nargs="+", required=True, metavar="NAME=FILE")
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    named = {name: read(file) for name, _, file in (text.partition("=") for text in given.answers)}
    first = next(iter(named))
    if any(
        [prompt for prompt, _ in rows] != [prompt for prompt, _ in named[first]] for rows in named.values()
    ):
        raise UserError("the files answer different prompts; make them from one file of prompts")
    scorer = Scorer([Member.open(given.reward_model)])
    found = {name: scores(scorer, rows) for name, rows in named.items()}
    table = [["policy", "mean score, 95 % interval", f"ahead of {first}", "words", "not scored"]]
    for name, values_P in found.items():
        both = ~np.isnan(values_P) & ~np.isnan(found[first])
        wins_P = (np.sign(values_P - found[first])[both] + 1) / 2
        words = np.mean([len(text.split()) for _, text in named[name]])
        ahead = "-" if name == first else measured(wins_P).replace("+", "")
        table.append([name, measured(values_P[~np.isnan(values_P)]), ahead, f"{words:.0f}",
                      str(int(np.isnan(values_P).sum()))])  # fmt: skip
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(
        json.dumps({"title": "On held-out prompts", "rows": table}, indent=2) + "\n"
    )
    (out / "scores.json").write_text(
        json.dumps({name: list(values) for name, values in found.items()}) + "\n"
    )
    for row in table:
        print("  ".join(cell.ljust(28) for cell in row).rstrip())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"rlhf_measure: {error}") from None
