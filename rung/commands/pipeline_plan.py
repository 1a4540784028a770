"""What a recipe would do, as a table: order, what is done, and for the rest memory and time before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from rung.eval.report import aligned
from rung.pipelines.runner import Place, other_code


def show(about: str, places: Sequence[Place]) -> int:
    rows = [["stage", "command", "builds on", "what happens"]]
    for place in places:
        rows.append(
            [place.stage.name, place.stage.command, ", ".join(place.stage.needs) or "-", happens(place)]
        )
    print("\n".join(part for part in (about, aligned(rows)) if part))
    return 0


def happens(place: Place) -> str:
    way = place.way()
    if way in ("resume", "repeat"):
        run = place.begun()
        latest = run.latest() if run else None
        return f"goes on from {latest.name}" if latest else "goes on"
    return {"done": "done" + other_code(place), "finish": "done", "run": "runs"}[way]
