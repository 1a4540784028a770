"""Pairs from a model's own graded answers: of each task the best against the worst; `recipes/iterative_dpo.yaml` uses it.

    python recipes/best_and_worst.py --answers demonstrations.jsonl --per-task 2 --least 0.5 --out pairs.jsonl

ANSWERS comes from `rung rft --select all`: rows of messages, task and score. The best is paired with the worst, the second
best with the second worst, and so on, as long as the scores differ by `--least` and the words differ at all.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def pairs_of(answers: list[dict[str, Any]], most: int, least: float) -> list[dict[str, Any]]:
    ranked = sorted(answers, key=lambda row: row["score"], reverse=True)
    found = []
    for better, worse in zip(ranked[: len(ranked) // 2], reversed(ranked), strict=False):
        chosen, rejected = better["messages"][-1], worse["messages"][-1]
        if (
            better["score"] - worse["score"] >= least
            and chosen["content"].strip() != rejected["content"].strip()
        ):
            found.append({"prompt": better["messages"][:-1], "chosen": [chosen], "rejected": [rejected]})
    return found[:most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", required=True)
    parser.add_argument("--per-task", type=int, default=1)
    parser.add_argument("--least", type=float, default=0.5)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    tasks: dict[str, list[dict[str, Any]]] = {}
    for line in Path(given.answers).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["score"] is not None:  # not judged is not bad
            tasks.setdefault(row["task"], []).append(row)
    pairs = [pair for rows in tasks.values() for pair in pairs_of(rows, given.per_task, given.least)]
    if not pairs:
        raise SystemExit(
            f"best_and_worst: none of {len(tasks)} tasks has answers whose scores differ by {given.least}. Sample more "
            "answers to each, take tasks that are neither too easy nor too hard, or lower --least."
        )
    Path(given.out).write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs))
    print(f"{len(pairs):,} pairs from {len(tasks):,} tasks")


if __name__ == "__main__":
    main()
