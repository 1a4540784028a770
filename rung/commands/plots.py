"""Curves of runs as one PNG: a panel per metric, the raw values faint, their running mean on top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rung.errors import UserError
from rung.eval.report import load_pyplot
from rung.metrics import metric_of
from rung.run import Run

COLOURS = ("#2a6fbb", "#d9730d", "#3a8f4d", "#b83a6b", "#7256b8", "#8a6a3b", "#3d9ca8", "#6b6b6b")
INK, FAINT = "#222222", "#8a8a8a"
EXACT = ("learning_rate", "epoch", "num_tokens", "loss_scale", "memory")  # nothing to smooth
LOGARITHMIC_FROM = 50.0  # a panel whose values span more than this factor is drawn on a log scale


def plot_runs(runs: dict[str, Run], metrics: Sequence[str], out: Path) -> None:
    """Draw `metrics` of the labelled runs into `out`."""
    pyplot = load_pyplot()
    rows = {label: run.metrics() for label, run in runs.items()}
    drawn = [name for name in metrics if any(name in row for part in rows.values() for row in part)]
    if not drawn:
        present = sorted({name for part in rows.values() for row in part for name in row})
        raise UserError(
            f"none of {', '.join(metrics)} is logged in {', '.join(rows)}; "
            + (f"there are {', '.join(present)}" if present else "no step has been logged yet")
        )
    columns = 1 if len(drawn) == 1 else 2
    height = math.ceil(len(drawn) / columns)
    figure, axes = pyplot.subplots(
        height, columns, figsize=(5.4 * columns, 3.2 * height + 0.4), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes.flat, drawn, strict=False):
        draw_panel(axis, name, rows)
    steps = [row["step"] for part in rows.values() for row in part]
    for axis in axes.flat[: len(drawn)]:
        axis.set_xlim(min(steps), max(steps) + 0.01)
    for axis in axes.flat[len(drawn) :]:
        axis.set_axis_off()
    if len(rows) > 1:
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(rows), 4), frameon=False)
    else:
        figure.suptitle(next(iter(rows)), x=0.01, ha="left", fontsize=11, color=INK)
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.1)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    pyplot.close(figure)


def draw_panel(axis: Any, name: str, rows: dict[str, list[dict[str, float]]]) -> None:
    """One metric of every run. A metric logged now and then, such as a held-out loss, gets markers."""
    everything: list[float] = []
    for (label, part), colour in zip(rows.items(), COLOURS * len(rows), strict=False):
        points = [(row["step"], row[name]) for row in part if name in row and math.isfinite(row[name])]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        everything += values
        if len(values) >= 20 and name not in EXACT:
            axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(steps, running_mean(values), color=colour, linewidth=1.8, label=label)
        else:
            dots = {"marker": "o", "markersize": 3} if len(values) < 20 else {}
            axis.plot(steps, values, color=colour, linewidth=1.8, label=label, **dots)
    style(axis, name, everything)


def style(axis: Any, name: str, values: Sequence[float]) -> None:
    metric = metric_of(name)
    unit = f" ({metric.unit})" if metric and metric.unit else ""
    axis.set_title(name + unit, loc="left", fontsize=10, color=INK, fontweight="bold", pad=17)
    if metric:
        axis.text(0, 1.02, metric.meaning, transform=axis.transAxes, fontsize=8, color=FAINT, va="bottom")
    axis.set_xlabel("step", fontsize=8, color=FAINT, loc="right")
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#cccccc")
    axis.grid(axis="y", color="#ececec", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=FAINT, labelsize=8)
    if name == "learning_rate":
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    spread = max(values) / min(values) if values and min(values) > 0 else 1.0
    if spread > LOGARITHMIC_FROM and name not in EXACT:
        axis.set_yscale("log")


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean over a centred window of about a twelfth of the points; it does not lag behind a falling loss."""
    half = max(1, len(values) // 24)
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
