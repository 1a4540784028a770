"""`--resume RUN`: the settings a run was started with, for every command that trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rung.config import parse, to_dict
from rung.errors import UserError
from rung.run import Run

Settings = TypeVar("Settings")


def resumed(given: Settings, command: str) -> Settings:
    """The settings a run was started with. A run is one experiment: other settings are refused, by name."""
    asked_for: Any = given
    run = Path(asked_for.resume)
    if not (run / "config.json").is_file():
        raise UserError(
            f"--resume {run} is not a run folder: it has no config.json. `rung runs list` shows the runs."
        )
    made_by = Run.open(run).config().get("command", command)
    if made_by != command:
        raise UserError(f"{run} was started by `rung {made_by}`. Write: rung {made_by} --resume {run}")
    kind: Any = type(given)
    started = parse(kind, ["--config", str(run / "config.json")], f"rung {command}")
    default, asked, was = (leaf_values(s) for s in (kind(), given, started))
    changed = [k for k in asked if asked[k] not in (default[k], was[k]) and k not in ("resume", "out")]
    if changed:
        lines = ", ".join(f"{k}: started with {was[k]}, now {asked[k]}" for k in changed)
        raise UserError(
            f"{run} cannot be resumed with other settings ({lines}). Leave them out, or start a new run "
            "from its checkpoint with --model."
        )
    return replace(started, resume=asked_for.resume)


def leaf_values(settings: Any) -> dict[str, object]:
    def walk(value: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
        for key, part in value.items():
            yield from walk(part, f"{prefix}{key}.") if isinstance(part, dict) else [(prefix + key, part)]

    return dict(walk(to_dict(settings)))
