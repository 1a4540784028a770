"""Rows for the filter of `recipes/granite.yaml`: good ones, and as many of every kind that it is there to catch.

    python recipes/granite_rows.py --sums demonstrations.jsonl --answers demonstrations.jsonl --spoil 0.1 --out rows.jsonl

Of sums and answers a share `--spoil` is added again for each fault, and says so in its column `spoiled`: a wrong result,
an answer to another question, an answer that repeats itself, a row that is there already. The rules catch the last two
for certain; the first two are the judge's.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(file: str) -> list[Row]:
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return [{"messages": json.loads(line)["messages"]} for line in lines]


def said(row: Row, text: str, fault: str) -> Row:
    return {"messages": [*row["messages"][:-1], {"role": "assistant", "content": text}], "spoiled": fault}


def faults(sums: list[Row], answers: list[Row], dice: random.Random) -> dict[str, Callable[[], Row]]:
    def words(row: Row) -> str:
        return str(row["messages"][-1]["content"])

    def wrong() -> Row:
        row, off = dice.choice(sums), dice.randint(1, 9)
        text = re.sub(
            r"<answer>(-?\d+)</answer>", lambda m: f"<answer>{int(m[1]) + off}</answer>", words(row)
        )
        return said(row, text, "wrong result")

    def elsewhere() -> Row:
        row = dice.choice(answers)
        others = [other for other in answers if other["messages"][0] != row["messages"][0]]
        return said(row, words(dice.choice(others or answers)), "answer to another question")

    def repeated() -> Row:
        row = dice.choice(answers)
        return said(row, " ".join([words(row) + " and so on and on and"] * 8), "repeats itself")

    def twice() -> Row:
        return {**dice.choice([*sums, *answers]), "spoiled": "there already"}

    return {"wrong": wrong, "elsewhere": elsewhere, "repeated": repeated, "twice": twice}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sums", required=True)
    parser.add_argument("--answers", required=True)
    parser.add_argument("--spoil", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    sums, answers, dice = read(given.sums), read(given.answers), random.Random(given.seed)
    count = round(given.spoil * (len(sums) + len(answers)))
    spoiled = [make() for make in faults(sums, answers, dice).values() for _ in range(count)]
    mixed = [*sums, *answers]
    dice.shuffle(mixed)
    rows = [*mixed, *spoiled]  # a copy comes after its original, which is the one that is kept
    Path(given.out).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(
        f"{len(sums):,} sums, {len(answers):,} answers, {len(spoiled):,} rows that should not be trained on"
    )


if __name__ == "__main__":
    main()
