"""Real preference pairs as what the stages of recipes/rlhf.yaml read. Its options are in the recipe; it prints what it did.

    train.jsonl, test.jsonl            pairs: prompt, chosen, rejected
    demonstrations.jsonl               the chosen answers of the training pairs, as conversations
    prompts/train.jsonl, test.jsonl    the prompts alone, for sampling

Rows with an empty answer cannot be a preference. They are named and end the run, unless `--empty skip` is written:
four of the first 1,800 rows of HH-RLHF's harmless pairs are of that kind.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rung.data.files import read_rows
from rung.data.formats import parse_row
from rung.data.rows import PreferenceRow
from rung.errors import UserError


def read_pairs(file: str, empty: str) -> list[PreferenceRow]:
    pairs, refused = [], []
    for row, origin in read_rows(file):
        try:
            parsed = parse_row(row, origin)
        except UserError as error:
            if "empty" not in str(error):
                raise
            refused.append(str(error))
            continue
        if not isinstance(parsed, PreferenceRow):
            raise UserError(f"{origin}: not a pair; recipes/rlhf.yaml needs rows with chosen and rejected")
        pairs.append(parsed)
    for reason in refused:
        print(f"skipped  {reason}" if empty == "skip" else reason)
    if refused and empty == "refuse":
        raise UserError(f"{len(refused)} rows of {file} have an empty answer (above). Mend them, or write "
                        "--empty skip to go on without them.")  # fmt: skip
    return pairs


def by_prompt(
    pairs: list[PreferenceRow], train: int, held_out: int
) -> tuple[list[PreferenceRow], list[PreferenceRow]]:
    """The first rows to train on, the last held out, and no prompt on both sides."""
    tests = pairs[len(pairs) - held_out :]
    theirs = {json.dumps(pair.prompt) for pair in tests}
    mine = [pair for pair in pairs[: len(pairs) - held_out] if json.dumps(pair.prompt) not in theirs]
    if len(tests) < held_out or len(mine) < train:
        raise UserError(f"{len(pairs)} pairs are too few for {train} to train on and {held_out} held out")
    return mine[:train], tests


def write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--train", type=int, required=True)
    parser.add_argument("--held-out", type=int, required=True)
    parser.add_argument("--empty", choices=("refuse", "skip"), default="refuse")
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    out = Path(given.out)
    train, tests = by_prompt(read_pairs(given.pairs, given.empty), given.train, given.held_out)
    for name, pairs in (("train", train), ("test", tests)):
        rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
        write(out / f"{name}.jsonl", rows)
        write(out / "prompts" / f"{name}.jsonl", [{"prompt": p.prompt, "answer": ""} for p in pairs])
    write(out / "demonstrations.jsonl", [{"messages": [*p.prompt, *p.chosen]} for p in train])
    print(f"{len(train):,} pairs to train on, {len(tests):,} held out")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"rlhf_split: {error}") from None
