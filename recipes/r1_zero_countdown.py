"""R1-Zero on Countdown: reinforcement learning with nothing but a verifier, on a model of half a million weights.

1. A small decoder is made from nothing and reads a synthetic corpus: questions with attempts, of which a few are
   right. Nothing in the corpus says which. That is its pre-training; there is no fine-tuning.
2. GRPO from the verifier alone (2402.03300, 2501.12948).
3. pass@k on held-out tasks before and after: what became likelier, and what became possible (2504.13837).

    python recipes/r1_zero_countdown.py [OUT] [--seeds 3] [--right 0.3] [--rounds 150]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from rung.machine import share_cores

share_cores()  # before torch is imported

from countdown_small import CHARACTERS, corpus
from rich.console import Console

from rung.eval.passk import Curve
from rung.eval.report import curve_table, plot_curves
from rung.models.small import write_small_model
from rung.pipelines.evaluate import evaluate
from rung.pipelines.rl import rl
from rung.pipelines.sft import sft
from rung.settings import Optimizer, Sft
from rung.settings_rl import Rl

ENVIRONMENT = f"{Path(__file__).parent / 'countdown_small.py'}:environment"
console = Console(highlight=False)


def pretrained(folder: Path, seed: int, right: float) -> Path:
    """A model that has read the corpus, and nothing else."""
    rows = folder / "corpus.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in corpus(30_000, right, seed)))
    start = write_small_model(folder / "start", CHARACTERS, layers=3, width=128, heads=4, seed=seed)
    return sft(
        Sft(
            data=(str(rows),), model=str(start), out=str(folder / "pretrained"), precision="fp32", seed=seed,
            step_documents=256, epochs=3, max_length=64, micro_tokens=8192,
            optimizer=Optimizer(learning_rate=2e-3, warmup=0.05),
        )
    )  # fmt: skip


def reinforced(folder: Path, model: Path, seed: int, rounds: int) -> Path:
    return rl(
        Rl(
            env=ENVIRONMENT, model=str(model), out=str(folder / "reinforced"), precision="fp32", seed=seed,
            rounds=rounds, prompts=32, group=8, max_tokens=16, slots=256, test_tasks=500, eval_every=25,
            micro_tokens=16384, optimizer=Optimizer(learning_rate=3e-4, schedule="constant", warmup=0),
        )
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", default=f"runs/r1-zero-{time.strftime('%Y%m%d-%H%M%S')}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--right", type=float, default=0.3, help="share of the corpus's attempts that are right on purpose"
    )
    parser.add_argument("--rounds", type=int, default=150)
    options = parser.parse_args()
    curves: dict[str, Curve] = {}
    for seed in range(options.seeds):
        folder = Path(options.out) / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        before = pretrained(folder, seed, options.right)
        after = reinforced(folder, before, seed, options.rounds)
        for name, model in (("pre-trained", before), ("reinforced", after)):
            found = evaluate(
                model, ENVIRONMENT, samples=32, tasks=200, out=folder / f"eval-{name}", max_tokens=16,
                precision="fp32", slots=256,
            )  # fmt: skip
            assert found.tally.pass_at is not None
            curves[f"{name}, seed {seed}"] = found.tally.pass_at
        console.print(curve_table({name: curve for name, curve in curves.items() if f"seed {seed}" in name}))
    plot_curves(curves, Path(options.out) / "pass-at-k.png")
    console.print(f"plot   {Path(options.out) / 'pass-at-k.png'}")


if __name__ == "__main__":
    main()
