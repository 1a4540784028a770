"""On-policy distillation against reinforcement learning: which takes fewer updates to the teacher's accuracy?

A large and a small decoder are made from nothing. The large one reads words with their reverse: the teacher. The small
one reads words of which half have that of another, and that is where every student starts. For every seed two
students learn from as many answers of their own and as many updates: one has the verifier's right or wrong and GRPO,
which needs several answers to a word; the other has what the teacher would say at each place, which needs one, so that it
meets eight times the words. What is asked: held-out accuracy at the end, with intervals, and after how many updates the
interval of a student's held-out accuracy first meets the teacher's.

    python recipes/on_policy_distillation.py [OUT] [--seeds 3] [--rounds 200]
"""

from __future__ import annotations

import argparse
import json
import random
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rung.machine import share_cores

share_cores()  # before torch is imported

from rich.console import Console

from rung.envs.load import load_environment
from rung.eval.intervals import wilson
from rung.models.small import write_small_model
from rung.pipelines.distill_on_policy import distill_on_policy
from rung.pipelines.evaluate import Evaluation, evaluate
from rung.pipelines.rl import rl
from rung.pipelines.sft import sft
from rung.run import Run
from rung.settings import Optimizer, Sft
from rung.settings_distill import DistillOnPolicy
from rung.settings_rl import Rl

TASK = "reasoning-gym/spell_backward?min_word_len=3&max_word_len=5&format=none&partial=false"
PHRASE = "Spell this word backward (example: sun -> nus): "
DOCUMENTS, RIGHT, LONGEST = 16_000, 0.5, 8
ANSWERS, TESTS = 256, 200  # of a round, and held out
TEACHER, STUDENT = {"layers": 4, "width": 192, "heads": 6}, {"layers": 3, "width": 128, "heads": 4}

console = Console(highlight=False)


def corpus(documents: int, right: float, seed: int) -> Iterator[dict[str, Any]]:
    """Questions of the training tasks with answers, of which a share is their own.

    As messages, in the form in which the models are asked later: bare rows would lack the chat template's line break.
    """
    tasks = load_environment(TASK, train_size=documents, seed=seed).train
    answers, dice = [task.reference["answer"] for task in tasks], random.Random(seed)
    for task, answer in zip(tasks, answers, strict=True):
        shown = answer if dice.random() < right else dice.choice(answers)
        yield {"messages": [*task.messages, {"role": "assistant", "content": shown}]}


def trained(model: Path, documents: int, right: float, seed: int, out: Path, epochs: float) -> Path:
    file = out.with_suffix(".jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in corpus(documents, right, seed)))
    return sft(
        Sft(
            data=(str(file),), model=str(model), out=str(out), precision="fp32", step_documents=128,
            epochs=epochs, max_length=128, micro_tokens=8192,
            optimizer=Optimizer(learning_rate=2e-3, warmup=0.05),
        )
    )  # fmt: skip


def models(folder: Path, documents: int) -> tuple[Path, Path]:
    """The teacher and the start of every student."""
    folder.mkdir(parents=True, exist_ok=True)
    spoken = "".join(said["content"] for row in corpus(200, 1.0, 100) for said in row["messages"])
    letters = "".join(sorted({*spoken, *string.ascii_letters}))
    made = {}
    for name, size in (("teacher", TEACHER), ("student", STUDENT)):
        fresh = write_small_model(folder / f"{name}-fresh", letters, context=128, phrases=[PHRASE], **size)
        made[name] = fresh
    teacher = trained(made["teacher"], documents, 1.0, 100, folder / "teacher", epochs=3)
    return teacher, trained(made["student"], documents, RIGHT, 100, folder / "student", epochs=4)


def learnt(how: str, teacher: Path, student: Path, out: Path, seed: int, rounds: int) -> Path:
    """As many answers and updates, and the same rate, for both."""
    shared: dict[str, Any] = dict(
        env=TASK, model=str(student), out=str(out), precision="fp32", seed=seed, rounds=rounds,
        max_tokens=LONGEST, slots=256, test_tasks=TESTS, eval_every=max(rounds // 12, 1), micro_tokens=16384,
        optimizer=Optimizer(learning_rate=1e-3, schedule="cosine", warmup=0),
    )  # fmt: skip
    if how == "GRPO":
        return rl(Rl(**shared, prompts=ANSWERS // 8, group=8), "grpo")
    return distill_on_policy(
        DistillOnPolicy(**shared, prompts=ANSWERS, group=1, teacher=str(teacher), method="gkd")
    )


def measured(model: Path, out: Path) -> Evaluation:
    return evaluate(
        model, TASK, out=out, samples=4, tasks=TESTS, max_tokens=LONGEST, precision="fp32", slots=256
    )


def line(name: str, result: Evaluation) -> dict[str, Any]:
    accuracy = result.tally.accuracy
    assert accuracy is not None
    console.print(f"{name:32} {accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]", markup=False)
    return {"name": name, "accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high}


def as_good(share: float, low: float) -> bool:
    """Whether a share of the held-out tasks may stand for an accuracy of `low`."""
    return wilson(round(share * TESTS), TESTS)[1] >= low


def draw(curves: dict[str, list[list[tuple[float, float]]]], teacher: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    axis.axhspan(
        teacher["low"], teacher["high"], color="#d8d8d8", linewidth=0, label="teacher, 95 % interval"
    )
    for (how, seeds), color in zip(curves.items(), ("#2a6fbb", "#d9702c"), strict=True):
        for number, points in enumerate(seeds):
            axis.plot(
                *zip(*points, strict=True),
                color=color,
                linewidth=1.6,
                marker="o",
                markersize=3,
                label=None if number else how,
            )
    axis.set(xlabel="student updates", ylabel="held-out accuracy, temperature 1", ylim=(0, 1))
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", default=f"runs/on-policy-{time.strftime('%Y%m%d-%H%M%S')}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    options = parser.parse_args()
    folder = Path(options.out)
    teacher, student = models(folder, options.documents)
    found = [
        line("teacher", measured(teacher, folder / "eval-teacher")),
        line("start", measured(student, folder / "eval-start")),
    ]
    curves: dict[str, list[list[tuple[float, float]]]] = {"on-policy distillation": [], "GRPO": []}
    for seed in range(options.seeds):
        for how in curves:
            name = f"{how}, seed {seed}"
            out = folder / name.replace(", ", "-").replace(" ", "-")
            run = learnt(how, teacher, student, out, seed, options.rounds)
            scores = [
                (row["step"], row["heldout_solved"])
                for row in Run.open(run).metrics()
                if "heldout_solved" in row
            ]
            reached = next((s for s, score in scores if as_good(score, found[0]["low"])), None)
            found.append(
                line(name, measured(run, folder / f"eval-{out.name}")) | {"updates_to_teacher": reached}
            )
            console.print(f"{'':32} meets the teacher's interval after {reached or 'no number of'} updates")
            curves[how].append([(0, found[1]["accuracy"]), *scores])
    draw(curves, found[0], folder / "on-policy-distillation.png")
    (folder / "on-policy-distillation.json").write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"plot   {folder / 'on-policy-distillation.png'}")


if __name__ == "__main__":
    main()
