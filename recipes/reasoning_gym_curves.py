"""Does reinforcement learning raise held-out accuracy? Four reasoning-gym tasks of different kind, three seeds each.

For each task a small decoder is made from nothing and reads questions with answers, of which a share is right and the
rest are answers to other questions; nothing says which. GRPO then has the task's own grader, and nothing else. What is
asked: is the accuracy on held-out tasks above where it began, with the interval of the difference clear of 0, for every
seed? The figure shows every seed.

    python recipes/reasoning_gym_curves.py [OUT] [--seeds 3] [--rounds 120] [--tasks spell_backward ...]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rung.machine import share_cores

share_cores()  # before torch is imported

from rich.console import Console

from rung.envs.load import load_environment
from rung.eval.report import comparison_line
from rung.eval.tally import compare_samples
from rung.models.small import write_small_model
from rung.pipelines.evaluate import Evaluation, evaluate
from rung.pipelines.rl import rl
from rung.pipelines.sft import sft
from rung.run import Run
from rung.settings import Optimizer, Sft
from rung.settings_rl import Rl

TASKS = {  # a word to turn round, letters to count, a common divisor, a sum
    "spell_backward": "reasoning-gym/spell_backward?min_word_len=3&max_word_len=4&format=none",
    "letter_counting": "reasoning-gym/letter_counting?min_words=2&max_words=4&format=none",
    "gcd": "reasoning-gym/gcd?min_numbers=2&max_numbers=2&min_value=1&max_value=99&format=none",
    "chain_sum": "reasoning-gym/chain_sum?min_terms=3&max_terms=3&min_digits=1&max_digits=1&format=none",
}
PHRASES = {  # what every question says: a token each
    "spell_backward": ["Spell this word backward (example: sun -> nus): "],
    "letter_counting": ['How many times does the letter "', '" appear in the text: "'],
    "gcd": [
        "Find the Greatest Common Divisor (GCD) of these numbers: ",
        ". Give only the GCD as your final answer.",
    ],
    "chain_sum": ["State the final answer to the following arithmetic problem: "],
}
DOCUMENTS, RIGHT, EPOCHS = 16_000, 0.5, 2
LONGEST = 12  # characters of an answer

console = Console(highlight=False)


def corpus(spec: str, seed: int) -> Iterator[dict[str, Any]]:
    """Questions of the training tasks, each with its own answer or with that of another.

    They are conversations, so that the model reads them written as the tasks will be put to it.
    """
    tasks = load_environment(spec, train_size=DOCUMENTS, seed=seed).train
    dice = random.Random(seed)
    answers = [task.reference["answer"] for task in tasks]
    for task, answer in zip(tasks, answers, strict=True):
        shown = answer if dice.random() < RIGHT else dice.choice(answers)
        yield {"messages": [*task.messages, {"role": "assistant", "content": shown}]}


def pretrained(spec: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(corpus(spec, seed=100))
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    letters = {letter for row in rows for message in row["messages"] for letter in message["content"]}
    start = write_small_model(
        folder / "start", "".join(sorted(letters)), layers=3, width=128, heads=4, context=128,
        phrases=PHRASES[folder.name],
    )  # fmt: skip
    return sft(
        Sft(
            data=(str(folder / "corpus.jsonl"),), model=str(start), out=str(folder / "pretrained"),
            precision="fp32", step_documents=64, epochs=EPOCHS, max_length=128, micro_tokens=2048,
            optimizer=Optimizer(learning_rate=3e-3, warmup=0.05),
        )
    )  # fmt: skip


def reinforced(spec: str, model: Path, out: Path, seed: int, rounds: int) -> Path:
    return rl(
        Rl(
            env=spec, model=str(model), out=str(out), precision="fp32", seed=seed, rounds=rounds, prompts=32,
            group=8, max_tokens=LONGEST, slots=256, test_tasks=200, eval_every=rounds // 6,
            micro_tokens=16384, optimizer=Optimizer(learning_rate=3e-4, schedule="constant", warmup=0),
        ),
        "grpo",
    )  # fmt: skip


def measured(model: Path, spec: str, out: Path) -> Evaluation:
    return evaluate(
        model, spec, out=out, samples=4, tasks=200, max_tokens=LONGEST, precision="fp32", slots=256
    )


def draw(curves: dict[str, list[list[tuple[float, float]]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(curves), figsize=(3.6 * len(curves), 3.2), layout="constrained", squeeze=False
    )
    for axis, (task, seeds) in zip(axes[0], curves.items(), strict=True):
        for points in seeds:
            axis.plot(*zip(*points, strict=True), color="#2a6fbb", linewidth=1.6, marker="o", markersize=3)
        axis.set(title=task, xlabel="rounds", ylim=(0, 1))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("held-out score, temperature 1")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", default=f"runs/curves-{time.strftime('%Y%m%d-%H%M%S')}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    options = parser.parse_args()
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    found: list[dict[str, Any]] = []
    for task in options.tasks:
        folder = Path(options.out) / task
        start = pretrained(TASKS[task], folder)
        before = measured(start, TASKS[task], folder / "eval-start")
        assert before.tally.accuracy is not None and before.tally.mean_score is not None
        for seed in range(options.seeds):
            run = reinforced(TASKS[task], start, folder / f"seed-{seed}", seed, options.rounds)
            after = measured(run, TASKS[task], folder / f"eval-seed-{seed}")
            compared = compare_samples(before.result.samples, after.result.samples)
            difference = compared.difference
            console.print(f"{task}, seed {seed}: {comparison_line('start', 'reinforced', compared)}")
            logged = [
                (row["step"], row["heldout_score"])
                for row in Run.open(run).metrics()
                if "heldout_score" in row
            ]
            # Some tasks pay for part of an answer: the curve is of that score, the table of whole answers.
            curves.setdefault(task, []).append([(0, before.tally.mean_score), *logged])
            found.append(
                {
                    "task": task,
                    "seed": seed,
                    "start": before.tally.accuracy.value,
                    "start_score": before.tally.mean_score,
                    "difference": difference.value,
                }
                | {"low": difference.low, "high": difference.high, "p": compared.p}
            )
    draw(curves, Path(options.out) / "curves.png")
    (Path(options.out) / "curves.json").write_text(json.dumps(found, indent=1) + "\n")
    clear = sum(row["low"] > 0 for row in found)
    console.print(f"{clear} of {len(found)} runs end above their start, the 95 % interval clear of 0")
    console.print(f"plot   {Path(options.out) / 'curves.png'}")


if __name__ == "__main__":
    main()
