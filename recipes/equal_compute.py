"""Compute counted, and spent to the same sum; `recipes/rft_grpo_distill.yaml` uses it.

    python recipes/equal_compute.py --like GRPO --spent RFT --rows RFT/demonstrations.jsonl --out rows.jsonl
    python recipes/equal_compute.py --arms GRPO=RUN RFT=RUN,RUN --out DIR

The first writes as many rows, pass after pass over `--rows`, as training can read once for what is left of the first run's
compute after the second's. The second makes a table of what was really processed. What counts, for W weights in the
layers and V D in the head:

    sampled   2 W for each token of prompt and answer, a group's prompt once, and 2 V D for each token of the answers
    trained   3 times that: forward, and backward to activations and to weights

for a teacher too. Attention over the context is left out: at these lengths it is some 2 % of the layers, in every arm.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from rung.errors import UserError
from rung.models.config import DecoderConfig
from rung.models.flops import training_flops
from rung.models.folder import read_config
from rung.models.hub import load_tokenizer, resolve
from rung.rollouts.store import RolloutStore
from rung.run import Run


def shape(run: Run) -> DecoderConfig:
    return DecoderConfig.from_hf(read_config(resolve(run.config()["settings"]["model"])))


def work(config: DecoderConfig, tokens: float, scored: float, *, trained: bool) -> float:
    return training_flops(config, tokens, scored, 0) / (1 if trained else 3)


def sampled(run: Run) -> float:
    """Of every rollout that is kept."""
    store, read, written = RolloutStore(run.path), 0, 0
    for round in store.rounds():
        groups: dict[Any, int] = {}
        for record in store.read(round):
            groups[record.rollout.group] = len(record.rollout.prompt_ids)
            written += len(record.rollout)
        read += sum(groups.values())
    return work(shape(run), read + written, written, trained=False)


def trained(run: Run) -> float:
    steps = [row for row in run.metrics() if "step_tokens" in row]
    tokens, scored = (sum(row[key] for row in steps) for key in ("step_tokens", "trained_tokens"))
    return work(shape(run), tokens, scored, trained=True)


def counted(folder: str) -> tuple[float, float]:
    """Floating-point operations of sampling and of training of one run."""
    run = Run.open(folder)
    return sampled(run), trained(run)


def row_work(row: dict[str, Any], tokenizer: Any, config: DecoderConfig) -> float:
    def length(messages: list[Any], **more: Any) -> int:
        return len(tokenizer.apply_chat_template(messages, return_dict=False, **more))

    whole = length(row["messages"])
    return work(config, whole, whole - length(row["messages"][:-1], add_generation_prompt=True), trained=True)


def rows_for(left: float, rows: list[dict[str, Any]], costs: list[float], seed: int) -> list[dict[str, Any]]:
    """Pass after pass in a fresh order, until the next row would cost more than is left."""
    found: list[dict[str, Any]] = []
    dice, order = random.Random(seed), list(range(len(rows)))
    while True:
        dice.shuffle(order)
        for place in order:
            if costs[place] > left:
                return found
            left -= costs[place]
            found.append(rows[place])


def write_rows(like: str, spent: str, file: str, out: str) -> None:
    budget, used = sum(counted(like)), sum(counted(spent))
    run = Run.open(like)
    text = Path(file).read_text(encoding="utf-8").splitlines()
    rows = [{"messages": json.loads(line)["messages"]} for line in text]
    tokenizer, config = load_tokenizer(run.config()["settings"]["model"]), shape(run)
    found = rows_for(budget - used, rows, [row_work(row, tokenizer, config) for row in rows], seed=0)
    if not found:
        raise UserError(
            f"{like} took {budget / 1e12:.3g} TFLOP and {spent} {used / 1e12:.3g}, which leaves nothing to train with. "
            "Ask fewer tasks or samples in the latter, or let the former run longer."
        )
    Path(out).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    print(
        f"{used / 1e12:.3g} of {budget / 1e12:.3g} TFLOP are spent; the rest is {len(found):,} rows, "
        f"{len(found) / len(rows):.1f} passes over {len(rows):,}"
    )


def write_table(arms: list[str], out: str) -> None:
    table = [["arm", "sampling, TFLOP", "training, TFLOP", "together", "of the first"]]
    first = 0.0
    for name, _, runs in (arm.partition("=") for arm in arms):
        parts = [counted(folder) for folder in runs.split(",")]
        asked, learnt = (sum(part[i] for part in parts) for i in (0, 1))
        first = first or asked + learnt
        figures = (f"{value / 1e12:.3g}" for value in (asked, learnt, asked + learnt))
        table.append([name, *figures, f"{(asked + learnt) / first:.0%}"])
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.json").write_text(
        json.dumps({"title": "Compute of each arm", "rows": table}, indent=2) + "\n"
    )
    for row in table:
        print("  ".join(cell.ljust(18) for cell in row).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--like")
    parser.add_argument("--spent")
    parser.add_argument("--rows")
    parser.add_argument("--arms", nargs="+", metavar="NAME=RUN,RUN")
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    if given.arms:
        write_table(given.arms, given.out)
    elif given.like and given.spent and given.rows:
        write_rows(given.like, given.spent, given.rows, given.out)
    else:
        raise UserError("give --arms, or all of --like, --spent and --rows")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"equal_compute: {error}") from None
