"""Preference pairs out of nothing but a model's own answers: to the question that was asked, against to another one.

    python recipes/r1_pairs.py --answers demonstrations.jsonl --out pairs.jsonl

ANSWERS comes from `rung rft` on the questions of r1_tasks.py. What a reward model learns from such pairs is whether an
answer is about the question: a modest helpfulness, but one that needs no annotator, no network and no larger model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", required=True)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    rows = [json.loads(line) for line in Path(given.answers).read_text(encoding="utf-8").splitlines()]
    chats = [row["messages"] for row in rows]
    far = len(chats) // 2  # half the file away, so that it is an answer to another question
    pairs = []
    for i, chat in enumerate(chats):
        other = chats[(i + far) % len(chats)]
        if other[0] != chat[0] and other[-1]["content"].strip() != chat[-1]["content"].strip():
            pairs.append({"prompt": chat[:-1], "chosen": [chat[-1]], "rejected": [other[-1]]})
    if not pairs:
        raise SystemExit(
            f"r1_pairs: {len(chats)} answers in {given.answers} make no pair; it takes answers to two questions or more"
        )
    Path(given.out).write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs))
    print(f"{len(pairs):,} pairs")


if __name__ == "__main__":
    main()
