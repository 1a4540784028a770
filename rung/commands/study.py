"""`rung study puzzles MODEL`: pass@k on twenty programming puzzles in every language, as a page."""

from __future__ import annotations

import shlex
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from rung.errors import RunStopped

if TYPE_CHECKING:
    from rung.pipelines.evaluate import Evaluation


@dataclass(frozen=True)
class StudyPuzzles:
    """Twenty puzzles, every language this machine can run, several programs each: pass@k, mistakes, tokens.

    Every program runs in the sandbox. Interrupted, the same command goes on where it stopped.
    """

    model: tyro.conf.Positional[str]
    """Name, folder, hub id, .gguf file, or the http address of an OpenAI-compatible server."""
    languages: tuple[str, ...] = ()
    """As in python rust cpp; all that the sandbox knows unless said."""
    samples: int = 10
    """Programs for each puzzle and language; pass@k is shown for k up to this."""
    difficulty: int = 0
    """Only the puzzles of this difficulty, 1 to 5; 0 is all of them."""
    tasks: int | None = None
    """Only the first so many puzzles; null is all of them."""
    max_tokens: int = 1024
    """Longest answer."""
    temperature: float = 0.8
    """0 is greedy."""
    top_p: float = 0.95
    """Sample from the smallest set of tokens with this much probability."""
    seed: int = 0
    """Everything random."""
    out: str = "evals/puzzles"
    """A folder for the results, one folder inside for each language, and report.html."""
    slots: int = 64
    """Answers sampled at once."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto takes a GPU if there is one."""
    name: str = ""
    """The model's name at an endpoint; not needed where it serves one."""
    concurrency: int = 8
    """Requests to an endpoint at once."""


def puzzles(settings: StudyPuzzles) -> int:
    from rung.pipelines.evaluate import evaluate
    from rung.studies.puzzles import study
    from rung.studies.puzzles_report import report
    from rung.studio.page import Page

    def measure(env: str, out: Path) -> Evaluation:
        return evaluate(
            settings.model, env, out=out, samples=settings.samples, tasks=settings.tasks,
            max_tokens=settings.max_tokens, temperature=settings.temperature, top_p=settings.top_p,
            seed=settings.seed, slots=settings.slots, device=settings.device, served_name=settings.name,
            concurrency=settings.concurrency,
        )  # fmt: skip

    try:
        made = study(measure, settings.out, settings.languages, settings.difficulty, print)
    except RunStopped as stop:
        raise RunStopped(f"{stop}\n  {command_line(settings)}", stop.code) from stop
    page = Page("Puzzles by language", f"{made.model}, {made.samples} samples for each puzzle and language")
    report(made, page)
    page.heading("Made by")
    page.command(command_line(settings))
    print(f"report  {page.write(made.out / 'report.html')}")
    return 0


def command_line(settings: StudyPuzzles) -> str:
    """What was asked for, without what was left as it is."""
    words = ["rung", "study", "puzzles", settings.model]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.default is not MISSING and value != field.default:
            words += [
                f"--{field.name.replace('_', '-')}",
                *map(str, value if isinstance(value, tuple) else [value]),
            ]
    return shlex.join(words)
