"""`rung runs list|show|compare|plot`: what run folders hold, without touching them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from rung.errors import UserError
from rung.metrics import METRICS, metric_of, out_of_range
from rung.run import Run
from rung.trackers import flat

if TYPE_CHECKING:
    from rich.console import Console

STATE_COLOURS = {
    "running": "cyan",
    "finished": "green",
    "stopped": "yellow",
    "failed": "red",
    "killed": "red",
}
HIDDEN = ("step", "time")


@dataclass(frozen=True)
class RunsList:
    """The runs below a folder, newest first."""

    folder: tyro.conf.Positional[Path] = Path("runs")
    "where to look; run folders may lie at any depth"


@dataclass(frozen=True)
class RunsShow:
    """One run: its state, what its settings are, and every metric with its meaning."""

    run: tyro.conf.Positional[Path]
    "a run folder"


@dataclass(frozen=True)
class RunsCompare:
    """Runs side by side: settings that differ, the last value of every metric, the median of times."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    "two or more run folders"


@dataclass(frozen=True)
class RunsPlot:
    """Curves of one or more runs as a PNG."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    "one or more run folders"
    metrics: tuple[str, ...] = ("loss", "learning_rate", "grad_norm", "tokens_per_second")
    "what to plot, one panel each"
    out: Path | None = None
    "the PNG to write; plot.png in the first run folder unless said"


def console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


# ---- list ----


def list_runs(settings: RunsList) -> int:
    if not settings.folder.is_dir():
        raise UserError(f"there is no folder {settings.folder}; name the one that your runs lie in")
    from rich.table import Table

    runs = find_runs(settings.folder)
    table = Table(
        "run", "state", "steps", "loss", "held-out", "begun", box=None, pad_edge=False, header_style="bold"
    )
    for run in runs:
        rows, state = run.metrics(), run.status()["state"]
        table.add_row(
            str(run.path),
            f"[{STATE_COLOURS[state]}]{state}",
            str(last(rows, "step", "-")),
            number(last(rows, "loss")),
            number(last(rows, "eval_loss")),
            begun(run),
        )
    if runs:
        console().print(table)
    else:
        print(f"no runs below {settings.folder}")
    return 0


def find_runs(folder: Path) -> list[Run]:
    """Newest first. A checkpoint has a config.json too; the status tells a run."""
    paths = {path.parent for path in folder.rglob("status.json") if (path.parent / "config.json").is_file()}
    return [
        Run(path) for path in sorted(paths, key=lambda p: (p / "config.json").stat().st_mtime, reverse=True)
    ]


def begun(run: Run) -> str:
    import datetime

    seconds = (run.path / "config.json").stat().st_mtime
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


# ---- show ----


def show(settings: RunsShow) -> int:
    from rich.markup import escape

    run = Run.open(settings.run)
    rows, status, out = run.metrics(), run.status(), console()
    colour = STATE_COLOURS[status["state"]]
    reason = f": {escape(status['reason'])}" if status.get("reason") else ""
    out.print(f"[bold]{escape(str(run.path))}[/]  [{colour}]{status['state']}[/]{reason}  begun {begun(run)}")
    latest = run.latest()
    out.print(f"last checkpoint: {latest.name if latest else 'none'}")
    out.print()
    if not rows:
        out.print("no step has been logged yet")
        return 0
    out.print(metric_table(rows))
    flagged = [name for name in names(rows) if out_of_range(name, last(rows, name))]
    for name in flagged:
        value = last(rows, name)
        out.print(
            f"[yellow]{name} is {number(value)}, {out_of_range(name, value)}, where it is usually healthy[/]"
        )
    return 0


def metric_table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric", no_wrap=True)
    for column in ("first", "last", "best"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True, style="dim")
    table.add_column("meaning")
    for name in names(rows):
        metric, values = metric_of(name), [row[name] for row in rows if name in row]
        best = {"lower": min, "higher": max}.get(metric.better if metric else "")
        wrong = out_of_range(name, values[-1])
        table.add_row(
            name,
            number(values[0]),
            f"[yellow]{number(values[-1])} ![/]" if wrong else number(values[-1]),
            number(best(values)) if best else "",
            metric.unit if metric else "",
            (metric.meaning if metric else "(unknown to this version)"),
        )
    return table


# ---- compare ----


def compare(settings: RunsCompare) -> int:
    from rich.table import Table

    if len(settings.runs) < 2:
        raise UserError("rung runs compare needs two or more run folders")
    runs = [Run.open(path) for path in settings.runs]
    labels = short_names([run.path for run in runs])
    table = Table("", *labels, box=None, pad_edge=False, header_style="bold")
    configs = [flat(run.config()) for run in runs]
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [shown(config, key) for config in configs]
        if len(set(values)) > 1:
            table.add_row(f"[dim]{key}[/]", *values)
    table.add_section()
    all_rows = [run.metrics() for run in runs]
    table.add_row("steps", *(str(last(rows, "step", "-")) for rows in all_rows))
    for name in names([row for rows in all_rows for row in rows]):
        metric = metric_of(name)
        noisy = metric is not None and metric.machine and name != "memory"
        results = [median(rows, name) if noisy else last(rows, name) for rows in all_rows]
        table.add_row(f"{name} [dim](median)[/]" if noisy else name, *mark_best(name, results))
    console().print(table)
    return 0


def shown(config: dict[str, Any], key: str) -> str:
    value = config.get(key, "-")
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def mark_best(name: str, values: list[float | None]) -> list[str]:
    """The values as text, the best one bold where the metric has a better side."""
    metric = metric_of(name)
    better = metric.better if metric else ""
    known = [value for value in values if value is not None and value == value]
    if not better or len(set(known)) < 2:
        return [number(value) for value in values]
    best = min(known) if better == "lower" else max(known)
    return [f"[bold green]{number(value)}[/]" if value == best else number(value) for value in values]


# ---- plot ----


def plot(settings: RunsPlot) -> int:
    from rung.commands.plots import plot_runs

    if not settings.runs:
        raise UserError("rung runs plot needs a run folder, as in rung runs plot runs/first")
    runs = [Run.open(path) for path in settings.runs]
    out = settings.out or runs[0].path / "plot.png"
    plot_runs(dict(zip(short_names([run.path for run in runs]), runs, strict=True)), settings.metrics, out)
    if len(runs) == 1:
        show(RunsShow(runs[0].path))
    print(f"wrote {out}")
    return 0


# ---- shared ----


def names(rows: list[dict[str, Any]]) -> list[str]:
    """The metrics that occur, in the order of the table."""
    present = {name for row in rows for name in row}
    ordered = [
        name for known in METRICS for name in ([known] if known in present else members(known, present))
    ]
    ordered += sorted(present - set(ordered))
    return [name for name in ordered if name not in HIDDEN]


def members(family: str, present: set[str]) -> list[str]:
    """The names of a family such as `reward/`, none for a plain metric."""
    return sorted(name for name in present if family.endswith("/") and name.startswith(family))


def last(rows: list[dict[str, Any]], name: str, otherwise: Any = None) -> Any:
    return next((row[name] for row in reversed(rows) if name in row), otherwise)


def median(rows: list[dict[str, Any]], name: str) -> float | None:
    """Of a speed or a time the last value says little."""
    values = [row[name] for row in rows if name in row]
    return statistics.median(values) if values else None


def number(value: float | None) -> str:
    """Four significant digits, thousands grouped; a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, int) or (abs(value) >= 1000 and value == value and abs(value) != float("inf")):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def short_names(paths: list[Path]) -> list[str]:
    """The last part of each path, or as much more of it as tells them apart."""
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        labels = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(labels)) == len(set(paths)):
            return labels
    return [str(path) for path in paths]
