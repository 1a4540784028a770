"""`rung eval MODEL... --env SPEC`: models on held-out tasks, with intervals, compared task by task."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from rung.errors import RunStopped, UserError

if TYPE_CHECKING:
    from rung.pipelines.evaluate import Evaluation


@dataclass(frozen=True)
class Eval:
    """Models on the held-out tasks of an environment, graded by its own reward; two or more are compared by task.

    Every answer is kept. Interrupted, the same command goes on where it stopped. Further commands: `rung eval show`,
    `rescore`, `diff` read the folders it writes; `rung eval text` measures perplexity and the distance from a base,
    `rung eval contamination` looks for the tasks in training data.
    """

    models: tyro.conf.Positional[tuple[str, ...]]
    """Names, folders, run folders, hub ids, .gguf files, or http addresses of OpenAI-compatible servers."""
    env: str = ""
    """What is played: arithmetic, countdown, reasoning-gym/NAME, gsm8k:PATH, rows:PATH, FILE.py:function, a mixture."""
    samples: int = 1
    """Answers to each task; more than one give pass@k, maj@k and diversity."""
    tasks: int | None = None
    """The first so many held-out tasks; null is all of them."""
    max_tokens: int = 512
    """Longest turn of the model."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this much probability."""
    think_tokens: int | None = None
    """At most so many tokens of thinking, which is then closed by force; null lets the model think as it likes."""
    seed: int = 0
    """Everything random."""
    out: str = ""
    """A folder for the results, one folder inside for each model; by default evals/ENVIRONMENT."""
    strict: bool = False
    """Answers do not depend on what is sampled beside them, to the bit. Slower."""
    slots: int = 64
    """Answers sampled at once."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of weights and arithmetic; auto is bf16 where the hardware multiplies it natively, fp32 where strict."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto takes a GPU if there is one."""
    name: str = ""
    """The model's name at an endpoint; not needed where it serves one."""
    concurrency: int = 8
    """Requests to an endpoint at once."""
    grader_seconds: float = 20.0
    """A reward that takes longer has failed, which is no score."""
    plot: bool = True
    """Draw pass@k with more than one sample, if matplotlib is there."""


def main(settings: Eval) -> int:
    check(settings)
    from importlib.util import find_spec

    from rung.pipelines.evaluate import environment_of
    from rung.pipelines.evaluation_report import plot, summary

    environment = environment_of(settings.env, settings.tasks)
    out = Path(settings.out or Path("evals", slug(environment.name)))
    began = time.perf_counter()
    try:
        found = [one_model(model, environment, out, settings) for model in settings.models]
    except RunStopped as stop:
        raise RunStopped(f"{stop}\n  {command_line(settings)}", stop.code) from stop
    print(f"{environment.name}, {time.perf_counter() - began:.0f} s\n")
    print(summary(found))
    if settings.plot and settings.samples > 1 and find_spec("matplotlib"):
        drawn = plot(found, out / "pass-at-k.png")
        print(f"\nplot    {drawn}" if drawn else "")
    for each in found:
        print(f"result  {each.path}")
    return 0


def check(settings: Eval) -> None:
    if not settings.env:
        raise UserError(
            "rung eval: nothing to evaluate on; add --env SPEC (`rung envs list` shows what there is)"
        )
    if settings.samples < 1 or settings.slots < 1 or (settings.tasks is not None and settings.tasks < 1):
        raise UserError("rung eval: --samples, --tasks and --slots are at least 1")
    if len({slug(model) for model in settings.models}) < len(settings.models):
        raise UserError(f"rung eval: a model is given twice ({', '.join(settings.models)})")


def one_model(model: str, environment: Any, out: Path, settings: Eval) -> Evaluation:
    from rung.pipelines.evaluate import evaluate

    with progress_line(model) as progress:
        return evaluate(
            model, environment, out=out / slug(model), samples=settings.samples, tasks=settings.tasks,
            max_tokens=settings.max_tokens, temperature=settings.temperature, top_p=settings.top_p,
            think_tokens=settings.think_tokens, seed=settings.seed, strict=settings.strict, slots=settings.slots,
            precision=settings.precision, device=settings.device, served_name=settings.name,
            concurrency=settings.concurrency, grader_seconds=settings.grader_seconds, progress=progress,
        )  # fmt: skip


def slug(name: str) -> str:
    """A model's or an environment's name as a folder's: its last two parts, for a run is often runs/NAME/..."""
    text = re.sub(r"^https?://", "", name).rstrip("/")
    return re.sub(r"[^\w.=+-]+", "-", "/".join(text.split("/")[-2:])).strip("-.") or "model"


def command_line(settings: Eval) -> str:
    """The command that has these settings."""
    words = ["rung", "eval", *settings.models]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.default is not MISSING and value != field.default:
            flag = field.name.replace("_", "-")
            words += (
                [f"--{flag}" if value else f"--no-{flag}"]
                if isinstance(value, bool)
                else [f"--{flag}", str(value)]
            )
    return shlex.join(words)


@contextmanager
def progress_line(model: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing in a log."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        line = bar.add_task(Path(model).name or model, total=None)
        yield lambda done, total: bar.update(line, completed=done, total=total)
