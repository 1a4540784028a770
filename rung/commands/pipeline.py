"""`rung pipeline run|plan|report`: recipes of several stages, run, foretold and shown."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from rung.errors import UserError

if TYPE_CHECKING:
    from rung.pipelines.runner import Place

ENDLESS = ("chat", "serve")  # they wait for someone


@dataclass(frozen=True)
class PipelineRun:
    """Run a recipe: every stage that is not done, each as a process of its own. The same again goes on."""

    recipe: tyro.conf.Positional[Path]
    """A YAML file of stages; docs/pipelines.md says how it is written."""
    out: str = ""
    """The pipeline folder; by default runs/ and the recipe's name."""
    quick: bool = False
    """With the changes of the recipe's own `quick:` block: everything small, to see it work."""
    set: tuple[str, ...] = ()
    """Changes: STAGE.KEY=VALUE, or values.NAME=VALUE."""


@dataclass(frozen=True)
class PipelinePlan:
    """Say what running a recipe would do: order, what is done already, memory and time. Nothing is run or loaded."""

    recipe: tyro.conf.Positional[Path]
    """A YAML file of stages."""
    out: str = ""
    """The pipeline folder; by default runs/ and the recipe's name."""
    quick: bool = False
    """With the changes of the recipe's own `quick:` block."""
    set: tuple[str, ...] = ()
    """Changes: STAGE.KEY=VALUE, or values.NAME=VALUE."""


@dataclass(frozen=True)
class PipelineReport:
    """One HTML page over a whole pipeline: stages, settings, accuracies, curves, findings, rollouts."""

    folder: tyro.conf.Positional[Path]
    """A pipeline folder."""
    out: str = ""
    """The page; by default index.html in the folder."""


def run(settings: PipelineRun) -> int:
    from rung.commands.pipeline_plan import too_little_disk
    from rung.pipelines.recipe_file import read_recipe
    from rung.pipelines.runner import run_recipe, say

    recipe = read_recipe(settings.recipe, settings_of, quick=settings.quick, overrides=settings.set)
    root = folder_of(settings)

    def warn(places: Sequence[Place]) -> None:
        print(too_little_disk(places), end="", file=sys.stderr, flush=True)

    places = run_recipe(recipe, root, command_line(settings, "run"), warn)
    last = places[-1]
    say(f"all {len(places)} stages are done, the last in {last.output}")
    from rung.commands.pipeline_page import write_page

    say(f"page  {write_page(root, root / 'index.html')}")
    return 0


def plan(settings: PipelinePlan) -> int:
    from rung.commands.pipeline_plan import show

    return show(*places_of(settings))


def report(settings: PipelineReport) -> int:
    from rung.commands.pipeline_page import write_page

    print(write_page(settings.folder, Path(settings.out) if settings.out else settings.folder / "index.html"))
    return 0


def places_of(settings: PipelinePlan) -> tuple[str, Sequence[Place]]:
    from rung.pipelines.recipe_file import read_recipe
    from rung.pipelines.runner import located
    from rung.pipelines.stage_key import Digests

    recipe = read_recipe(settings.recipe, settings_of, quick=settings.quick, overrides=settings.set)
    root = folder_of(settings)
    return recipe.about, located(recipe, root, Digests(root / "pipeline" / "digests.json"))


def folder_of(settings: PipelineRun | PipelinePlan) -> Path:
    return Path(settings.out or Path("runs", settings.recipe.stem))


def command_line(settings: PipelineRun | PipelinePlan, verb: str) -> str:
    words = ["rung", "pipeline", verb, str(settings.recipe)]
    words += ["--out", settings.out] if settings.out else []
    words += ["--quick"] if settings.quick else []
    words += ["--set", *settings.set] if settings.set else []
    return shlex.join(words)


def settings_of(name: str) -> type:
    """The settings class of a command that can be a stage."""
    from rung.commands import COMMANDS

    if name in ENDLESS or name.startswith("pipeline"):
        raise UserError(f"`rung {name}` cannot be a stage: it does not end by itself, or is a pipeline")
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "`rung --help` lists the commands"
        raise UserError(f"there is no command `{name}`; {hint}")
    command = COMMANDS[name]
    return getattr(importlib.import_module(f"rung.commands.{command.module}"), command.settings)
