"""Pairs from scored samples: of each prompt the best answer against the worst; `recipes/rlhf.yaml` iterates with it.

    python recipes/rlhf_pairs.py --scored SCORED.jsonl --least 0.1 --out pairs.jsonl

SCORED comes from `rung score`, several rows to a prompt. Prompts whose best and worst score differ by less than `--least`,
or whose answers are equal or unscored, say nothing of what is better and are counted, not used.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scored", required=True)
    parser.add_argument("--least", type=float, default=0.0)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in Path(given.scored).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        groups.setdefault(json.dumps(row["prompt"]), []).append(row)
    rows, alike = [], 0
    for answers in groups.values():
        judged = sorted((row for row in answers if row["score"] is not None), key=lambda row: row["score"])
        if len(judged) < 2 or judged[-1]["score"] - judged[0]["score"] < given.least or not differ(judged):
            alike += 1
            continue
        sides = {"chosen": judged[-1], "rejected": judged[0]}
        said = {name: [{"role": "assistant", "content": row["completion"]}] for name, row in sides.items()}
        rows.append({"prompt": judged[0]["prompt"], **said})
    print(f"{len(rows)} pairs from {len(groups)} prompts; {alike} prompts without a difference")
    if not rows:
        raise SystemExit(
            f"rlhf_pairs: none of {len(groups)} prompts has answers whose scores differ by {given.least}. Sample more "
            "answers to each, at a higher temperature, or lower --least."
        )
    Path(given.out).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def differ(judged: list[dict[str, Any]]) -> bool:
    return bool(judged[-1]["completion"].strip() != judged[0]["completion"].strip())


if __name__ == "__main__":
    main()
