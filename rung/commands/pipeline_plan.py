"""What a recipe would do, as a table: order, what is done, and for the rest memory and time before anything runs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from rung.data.files import split_weight
from rung.pipelines.recipe_yaml import REFERENCE
from rung.pipelines.runner import Place, other_code, reference_in
from rung.progress import duration

if TYPE_CHECKING:
    from rung.models.config import DecoderConfig
    from rung.pipelines.plan import Plan, Rates, Rows

BYTES_A_TOKEN = 4.5  # of a row of JSON with English text


def show(about: str, places: Sequence[Place]) -> int:
    rates = measured_rates()
    plans = {place.stage.name: planned(place, places, rates) for place in places}
    rows = [["stage", "command", "what happens", "memory", "disk", "time", "builds on"]]
    for place in places:
        plan = plans[place.stage.name]
        rows.append(
            [
                place.stage.name,
                place.stage.command if place.stage.kind else Path(place.stage.command).name,
                happens(place),
                f"{plan.memory:.1f} GB" if plan.phases else "-",
                f"{plan.disk:.1f} GB" if plan.disk else "-",
                (plan.remark and "at most ") + duration(plan.seconds) if plan.seconds is not None else "-",
                ", ".join(place.stage.needs) or "-",
            ]
        )
    print("\n".join([*([about] if about else []), *columns(rows)]))
    print(total([plans[place.stage.name] for place in places if not place.done()]))
    print(too_little_disk(places), end="")
    return 0


def too_little_disk(places: Sequence[Place]) -> str:
    """A warning where the checkpoints of what is left to run will not fit, for a run may stop on it only after hours."""
    plans = [planned(place, places, None) for place in places if not place.done()]
    # While the newest is written there is more than stays, of one stage at a time.
    needed = sum(plan.disk for plan in plans) + max((plan.disk for plan in plans), default=0.0)
    there = places[0].root
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / 1e9
    if needed <= free:
        return ""
    return (
        f"warning: checkpoints of what is left take up to {needed:.1f} GB, and the disk under {there} has {free:.1f} GB "
        "free; free some, write elsewhere with --out, or keep fewer with `keep: 1`\n"
    )


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def happens(place: Place) -> str:
    way = place.way()
    if way in ("resume", "repeat"):
        run = place.begun()
        latest = run.latest() if run else None
        return f"goes on from {latest.name}" if latest else "goes on"
    return {"done": "done" + other_code(place), "finish": "done", "run": "runs"}[way]


def total(plans: Sequence[Plan]) -> str:
    """One stage runs at a time: memory is the largest, time the sum of what is known."""
    if not plans:
        return "every stage is done"
    known = [plan.seconds for plan in plans if plan.seconds is not None]
    more = f", and {len(plans) - len(known)} stages of unknown time" if len(known) < len(plans) else ""
    memory, here = max(plan.memory for plan in plans), psutil.virtual_memory().total / 1e9
    line = f"{len(plans)} stages to run: {duration(sum(known))}{more}; at most {memory:.1f} GB at once, {here:.1f} GB here"
    return line + ("\nwarning: that is more than this machine has; lower micro_tokens or slots, or use --lora.rank"
                   if memory > here else "")  # fmt: skip


def planned(place: Place, places: Sequence[Place], rates: Rates | None) -> Plan:
    from rung.pipelines.plan import Plan, plan

    if place.stage.kind is None:
        return Plan({}, remark="a script of its own")
    config = model_config(place, places)
    if config is None:
        return Plan({}, remark="no model of its own")
    settings = place.stage.settings(reference_in(places), out=str(place.output))
    return plan(place.stage.command, settings, config, rates=rates, rows=rows_of(place, places))


def measured_rates() -> Rates:
    """The matrix peak of this machine, in the type that training would choose."""
    from rung.machine import matrix_peak
    from rung.pipelines.plan import Rates
    from rung.pipelines.setup import choose_device, choose_dtype

    device = choose_device("auto")
    return Rates(matrix_peak(choose_dtype("auto", device), device))


def model_config(place: Place, places: Sequence[Place]) -> DecoderConfig | None:
    """Of the model that the stage works on; a stage's output is made like what it started from."""
    from rung.models.config import DecoderConfig
    from rung.models.folder import read_config
    from rung.models.hub import resolve

    settings = place.stage.settings(lambda name, member: f"${{{name}.{member}}}", out="out")
    named = getattr(settings, "model", None) or getattr(settings, "models", None)
    first = named[0] if isinstance(named, tuple) and named else named
    if not isinstance(first, str) or "://" in first:
        return None
    referred = REFERENCE.search(first)
    if referred is None:
        return DecoderConfig.from_hf(read_config(resolve(first)))
    source = next(other for other in places if other.stage.name == referred[1].split(".")[0])
    return model_config(source, places)


def rows_of(place: Place, places: Sequence[Place]) -> Rows | None:
    return rows_in(place.stage.words(reference_in(places)).get("data") or [])


def rows_in(specs: Sequence[str]) -> Rows | None:
    """Rows and tokens of the training data as far as it is there, by the length of its text."""
    from rung.pipelines.plan import Rows

    documents, size = 0, 0
    for spec in specs:
        path = Path(split_weight(spec)[0])
        if path.suffix != ".jsonl" or not path.is_file():
            return None
        content = path.read_bytes()
        documents, size = documents + content.count(b"\n"), size + len(content)
    return Rows(documents, size / BYTES_A_TOKEN) if documents else None
