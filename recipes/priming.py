"""Four cognitive behaviours, primed before reinforcement learning (2503.01307), on a model of half a million weights.

1. A small decoder reads sums and Countdown questions with bare answers, few of them right: its pre-training. It has
   never seen a search.
2. Priming by SFT on a thousand traces of a symbolic solver. Four arms from the same pre-trained model:
       primed          verification, backtracking, subgoals, backward chaining; right answers
       primed, wrong   the same behaviours, every final answer wrong
       calculation     right answers, the bare calculation, none of the behaviours
       none            no priming
3. The same GRPO from a verifier for each. Held-out accuracy and the behaviours in what is sampled, over the rounds.

The paper's claim: behaviours help reinforcement learning even where the primed answers were wrong.

    python recipes/priming.py [OUT] [--seeds 3] [--rounds 30] [--rows 1000]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from rung.machine import share_cores

share_cores()  # before torch is imported

import numpy as np
from countdown_search import CHARACTERS, PHRASES, Row, corpus, priming
from rich.console import Console

from rung.eval.behaviours import COMPILED, shares
from rung.eval.intervals import wilson
from rung.eval.report import load_pyplot
from rung.models.small import write_small_model
from rung.pipelines.rl import rl
from rung.pipelines.sft import sft
from rung.rollouts.store import RolloutStore
from rung.run import Run
from rung.settings import Optimizer, Sft
from rung.settings_rl import Rl

ENVIRONMENT = f"{Path(__file__).parent / 'countdown_search.py'}:environment"
ARMS: dict[str, dict[str, Any] | None] = {
    "primed": {},
    "primed, wrong answers": {"right": False},
    "calculation": {"show": ()},
    "none": None,
}
TESTS, LONGEST = 300, 96
COLOURS = dict(zip(ARMS, ("#2a6fbb", "#d1662a", "#3b9c67", "#8a8a8a"), strict=True))
console = Console(highlight=False)


def trained(rows: list[Row], model: Path, out: Path, seed: int, epochs: float, documents: int) -> Path:
    file = out.with_suffix(".jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sft(
        Sft(
            data=(str(file),), model=str(model), out=str(out), precision="fp32", seed=seed, epochs=epochs,
            step_documents=documents, max_length=256, micro_tokens=8192,
            optimizer=Optimizer(learning_rate=2e-3 if documents > 64 else 1e-3, warmup=0.05),
        )
    )  # fmt: skip


def one_seed(folder: Path, seed: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    start = write_small_model(
        folder / "start", CHARACTERS, layers=3, width=128, heads=4, seed=seed, phrases=PHRASES
    )
    base = trained(list(corpus(options.documents, 0.3, seed)), start, folder / "base", seed, 2, 128)
    found = {}
    for place, (arm, how) in enumerate(ARMS.items()):
        model = base
        if how is not None:
            rows = priming(options.rows, seed, **how)
            model = trained(rows, base, folder / f"primed-{place}", seed, options.epochs, 32)
        run = rl(
            Rl(
                env=ENVIRONMENT, model=str(model), out=str(folder / f"rl-{place}"), precision="fp32", seed=seed,
                rounds=options.rounds, prompts=16, group=8, max_tokens=LONGEST, slots=128, test_tasks=TESTS,
                eval_every=max(options.rounds // 4, 1), micro_tokens=16384,
                optimizer=Optimizer(learning_rate=1e-4, schedule="constant", warmup=0),
            )
        )  # fmt: skip
        found[arm] = seen(run)
        console.print(f"seed {seed}  {arm:22}  {found[arm]['held_out'][-1]}")
    return found


def seen(run: Path) -> dict[str, Any]:
    """What a run of GRPO left: reward of each round, held-out accuracy, the share of answers with each behaviour."""
    rows, store = Run.open(run).metrics(), RolloutStore(run)
    rounds = [
        shares((row["text"], target_of(row["prompt"])) for row in store.scan(["text", "prompt"], [number]))
        for number in store.rounds()
    ]
    return {
        "reward": [row["reward"] for row in rows if "reward" in row],
        "held_out": [(row["step"], row["heldout_solved"]) for row in rows if "heldout_solved" in row],
        "length": [row["response_length"] for row in rows if "response_length" in row],
        "behaviours": {name: [each[name] for each in rounds] for name in COMPILED},
    }


def target_of(prompt: str) -> int:
    return int(prompt.rpartition("=")[2])


def table(results: list[dict[str, dict[str, Any]]]) -> list[str]:
    """Each arm at the first round and at the end. Intervals: Wilson over all seeds' tasks; range: over seeds."""
    lines = ["arm                     first reward   last reward   held out at the end (95 %)      seeds"]
    for arm in ARMS:
        rewards = np.array([r[arm]["reward"] for r in results])
        first, last = rewards[:, :3].mean(), rewards[:, -3:].mean()
        ends = [r[arm]["held_out"][-1][1] for r in results]
        low, high = wilson(sum(ends) * TESTS, len(ends) * TESTS)
        each = " ".join(f"{end:.2f}" for end in ends)
        lines.append(
            f"{arm:22}  {first:12.3f}  {last:12.3f}   {np.mean(ends):.3f} ({low:.3f} to {high:.3f})      {each}"
        )
    return lines


def draw(results: list[dict[str, dict[str, Any]]], path: Path) -> None:
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6), layout="constrained", sharex=True)
    panels = [
        ("reward", "reward of the round"),
        ("length", "tokens of an answer"),
        *((n, n) for n in COMPILED),
    ]
    for axis, (name, title) in zip(axes.flat, panels, strict=True):
        for arm in ARMS:
            curves = np.array(
                [r[arm]["behaviours"][name] if name in COMPILED else r[arm][name] for r in results]
            )
            rounds = np.arange(1, curves.shape[1] + 1)
            axis.plot(rounds, curves.mean(0), color=COLOURS[arm], linewidth=1.8, label=arm)
            axis.fill_between(
                rounds, curves.min(0), curves.max(0), color=COLOURS[arm], alpha=0.15, linewidth=0
            )
        axis.set_title(title, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        if name != "length":
            axis.set_ylim(0, 1.02)
    axes[0][0].legend(frameon=False, fontsize=8)
    for axis in axes[1]:
        axis.set_xlabel("rounds of GRPO")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", default=f"runs/priming-{time.strftime('%Y%m%d-%H%M%S')}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=30, help="of GRPO, 16 tasks x 8 answers each")
    parser.add_argument("--rows", type=int, default=1000, help="traces to prime with")
    parser.add_argument("--epochs", type=float, default=10, help="of priming")
    parser.add_argument(
        "--documents", type=int, default=30_000, help="questions of the corpus; as many lines of sums"
    )
    options = parser.parse_args()
    out, results = Path(options.out), []
    for seed in range(options.seeds):
        results.append(one_seed(out / f"seed-{seed}", seed, options))
        (out / "results.json").write_text(json.dumps(results))
    console.print("\n".join(table(results)), soft_wrap=True)
    draw(results, out / "priming.png")
    console.print(f"plot   {out / 'priming.png'}")


if __name__ == "__main__":
    main()
