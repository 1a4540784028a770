"""`rung data steps MODEL --env SPEC`: solutions with a label for each step, by Monte Carlo completions."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from rung.errors import UserError


@dataclass(frozen=True)
class DataSteps:
    """Sample solutions to tasks, finish each from the end of every step several times, label the step by the outcomes.

    The rows are what `rung reward --kind process` trains on. Interrupted, the same command goes on.
    """

    model: tyro.conf.Positional[str]
    """The policy that solves and completes: a name, folder, run folder, hub id or .gguf file."""
    env: str = ""
    """Tasks with a verifier; its training tasks are used."""
    out: str = ""
    """The JSONL file to write."""
    tasks: int = 100
    """The first so many tasks."""
    solutions: int = 4
    """Solutions to each task."""
    completions: int = 8
    """Endings from each step; the paper's N."""
    estimate: Literal["hard", "soft"] = "hard"
    """The label: whether any ending is right, or the share that is. Both are kept (`shares`)."""
    step_end: str = "\n\n"
    """The text between two steps."""
    max_tokens: int = 512
    """Longest solution, and longest ending."""
    temperature: float = 1.0
    """Of sampling."""
    seed: int = 0
    """Everything random."""
    batch: int = 8
    """Tasks in hand at once: what an interruption can lose."""
    slots: int = 64
    """Answers sampled at once."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of weights and arithmetic."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto takes a GPU if there is one."""


def main(settings: DataSteps) -> int:
    check(settings)
    partial = Path(f"{settings.out}.partial")
    done = resumed(partial, settings)
    from rung.envs.load import load_environment
    from rung.pipelines.process_labels import judge_steps
    from rung.rewards.workers import Graders
    from rung.rollouts.engine import sample_seed

    environment = load_environment(settings.env, seed=settings.seed, train_size=settings.tasks)
    complete = completer(settings, environment)
    count = min(settings.tasks, len(environment.train))
    partial.parent.mkdir(parents=True, exist_ok=True)
    with Graders(environment.reward) as graders, partial.open("a", encoding="utf-8") as file:
        for begin in range(done, count, settings.batch):
            chosen = [environment.train[i] for i in range(begin, min(begin + settings.batch, count))]
            seed = sample_seed(settings.seed, begin, 0) % (1 << 31)
            solved = complete(chosen, [""] * len(chosen), settings.solutions, seed)
            pairs = [
                (task, one)
                for task, many in zip(chosen, solved, strict=True)
                for one in many
                if one.text.strip()
            ]
            judged = judge_steps(
                pairs,
                complete,
                graders.grade,
                step_end=settings.step_end,
                n=settings.completions,
                seed=seed + 1,
            )
            rows = [one.row(settings.estimate) for one in judged if one.complete]
            file.write(
                json.dumps({"until": begin + len(chosen), "left_out": len(judged) - len(rows), "rows": rows})
                + "\n"
            )
            file.flush()
            print(f"{begin + len(chosen)} of {count} tasks", file=sys.stderr)
    finish(partial, settings)
    return 0


def check(settings: DataSteps) -> None:
    if not settings.env or not settings.out:
        raise UserError("rung data steps: give --env SPEC, where the tasks are from, and --out FILE.jsonl")
    if Path(settings.out).exists():
        raise UserError(f"--out {settings.out} exists, and it is never written over. Choose another name.")
    for name in ("tasks", "solutions", "completions", "batch"):
        if getattr(settings, name) < 1:
            raise UserError(f"--{name} is {getattr(settings, name)}, and there is at least 1.")
    if not settings.step_end:
        raise UserError("--step-end is empty, and something must end a step. Write for example '\\n\\n'.")


def completer(settings: DataSteps, environment: Any) -> Any:
    from rung.data.tokens import token_policy
    from rung.models.folder import read_generation_config
    from rung.models.hub import load_tokenizer, resolve
    from rung.models.load import load_model
    from rung.pipelines.process_labels import PolicyCompleter
    from rung.pipelines.setup import choose_device, choose_dtype
    from rung.rollouts.hf import sampler_for
    from rung.rollouts.request import Sampling

    where = choose_device(settings.device)
    tokenizer = load_tokenizer(settings.model)
    model = load_model(settings.model, choose_dtype(settings.precision, where), where)
    return PolicyCompleter(
        sampler_for(model, slots=settings.slots, tokenizer=tokenizer),
        tokenizer,
        token_policy(tokenizer, read_generation_config(resolve(settings.model)) or None),
        Sampling(settings.max_tokens, settings.temperature),
        environment,
    )


def resumed(partial: Path, settings: DataSteps) -> int:
    """Tasks that are done already. The file of an interrupted command begins with its settings."""
    asked = json.dumps(asdict(settings), sort_keys=True)
    lines = partial.read_text(encoding="utf-8").splitlines(keepends=True) if partial.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if not whole:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(asked + "\n", encoding="utf-8")
        return 0
    if whole[0].strip() != asked:
        raise UserError(
            f"{partial} is from the same command with other settings. Give them again to go on, or remove the file."
        )
    if len(whole) < len(lines):  # a line that was cut off
        from rung.run import write_atomically

        write_atomically(partial, "".join(whole))
    return json.loads(whole[-1])["until"] if len(whole) > 1 else 0


def finish(partial: Path, settings: DataSteps) -> None:
    from rung.run import write_atomically

    parts = [json.loads(line) for line in partial.read_text(encoding="utf-8").splitlines()[1:]]
    rows = [row for part in parts for row in part["rows"]]
    if not rows:
        raise UserError(f"no solution could be judged, so {settings.out} is not written; see {partial}")
    write_atomically(Path(settings.out), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    partial.unlink()
    labels = [float(label) for row in rows for label in row["labels"]]
    left_out = sum(part["left_out"] for part in parts)
    print(
        f"wrote    {settings.out}: {len(rows):,} solutions, {len(labels):,} steps, {sum(labels) / len(labels):.1%} good"
    )
    if left_out:
        print(f"left out {left_out:,} solutions with a step that no ending could be judged for")
