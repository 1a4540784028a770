"""Where `recipes/r1.yaml` begins: worked chain sums, and the held-out questions that its last table is about.

python recipes/r1_demonstrations.py --rows 256 --questions 50 --out FOLDER

demonstrations.jsonl    training sums, answered in the form <think>...</think><answer>...</answer>
questions.jsonl         prompts alone
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from r1_tasks import questions, sums


def worked(expression: str) -> str:
    """`26 - 95 + 88` thought through from the left, one step a line."""
    first, *rest = re.findall(r"[+-]?\d+", expression.replace(" ", ""))
    total, lines = int(first), [f"Start with {int(first)}."]
    for term in rest:
        after = total + int(term)
        lines.append(f"{total} {term[0]} {term[1:]} = {after}")
        total = after
    return "\n".join(["<think>", *lines, "</think>", f"<answer>{total}</answer>"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--questions", type=int, default=0)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    rows = [
        {
            "messages": [
                *task.messages,
                {"role": "assistant", "content": worked(task.reference["metadata"]["expression"])},
            ]
        }
        for task in sums(train_size=given.rows, test_size=0).train
    ]
    asked = [{"prompt": task.messages} for task in questions(test_size=given.questions).test]
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, lines in (("demonstrations", rows), ("questions", asked)):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{len(rows):,} worked sums, {len(asked)} questions")


if __name__ == "__main__":
    main()
