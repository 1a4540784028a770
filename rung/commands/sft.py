"""`rung sft`: train on demonstrations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rung.config import parse, to_dict
from rung.errors import UserError
from rung.settings import Sft


def main(settings: Sft) -> int:
    if settings.resume:
        settings = resumed(settings)
    elif not settings.data:
        raise UserError("No data was given. Write --data FILE, for example --data rows.jsonl.")
    from rung.pipelines.sft import sft

    sft(settings)
    return 0


def resumed(given: Sft) -> Sft:
    """The settings a run was started with. A run is one experiment: other settings are refused, by name."""
    run = Path(given.resume)
    if not (run / "config.json").is_file():
        raise UserError(
            f"--resume {run} is not a run folder: it has no config.json. `rung runs list` shows the runs."
        )
    started = parse(Sft, ["--config", str(run / "config.json")], "rung sft")
    default, asked, was = (leaf_values(s) for s in (Sft(), given, started))
    changed = [k for k in asked if asked[k] not in (default[k], was[k]) and k not in ("resume", "out")]
    if changed:
        lines = ", ".join(f"{k}: started with {was[k]}, now {asked[k]}" for k in changed)
        raise UserError(
            f"{run} cannot be resumed with other settings ({lines}). Leave them out, or start a new run "
            "from its checkpoint with --model."
        )
    return replace(started, resume=given.resume)


def leaf_values(settings: Sft) -> dict[str, object]:
    def walk(value: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
        for key, part in value.items():
            yield from walk(part, f"{prefix}{key}.") if isinstance(part, dict) else [(prefix + key, part)]

    return dict(walk(to_dict(settings)))
