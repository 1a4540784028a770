"""An evaluation for the eye: a table of a few lines, and pass@k curves with their bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.errors import UserError
from rung.eval.passk import Curve

if TYPE_CHECKING:
    from rung.eval.paired import Comparison
    from rung.eval.tally import Tally

COLOURS = ("#2a6fbb", "#d9730d", "#3a8f4d", "#b83a6b", "#7256b8", "#8a6a3b")
INK, FAINT = "#222222", "#6b6b6b"


def tally_table(tallies: Mapping[str, Tally]) -> str:
    """One line per model. What was not scored stands in the table whenever there is any."""
    rows = [["", "accuracy", "95 % interval", "right", "tasks", "tokens"]]
    lost = any(t.scored < t.attempts for t in tallies.values())
    if lost:
        rows[0] += ["unscored", "if wrong / right"]
    for name, each in tallies.items():
        right = round(each.worst * each.attempts)
        known = each.accuracy
        rows.append(
            [
                name,
                f"{known.value:.1%}" if known else "-",
                f"{known.low:.1%} to {known.high:.1%}" if known else "nothing was scored",
                f"{right:,} of {each.scored:,}",
                f"{each.tasks:,}",
                f"{each.mean_tokens:.0f}",
            ]
        )
        if lost:
            rows[-1] += [unscored(each), f"{each.worst:.1%} / {each.best:.1%}"]
    return aligned(rows)


def unscored(each: Tally) -> str:
    parts = [f"{count} {kind}" for kind, count in each.failures.items()]
    return ", ".join([*parts, f"{each.abstained} abstained"] if each.abstained else parts) or "0"


def comparison_line(base: str, other: str, found: Comparison) -> str:
    """`trained - base: +12.0 points [+4.1, +19.8], p = 0.003 ...`, in points of accuracy."""
    low, value, high = (
        f"{100 * x:+.1f}" for x in (found.difference.low, found.difference.value, found.difference.high)
    )
    left_out = f", {found.left_out} tasks left out" if found.left_out else ""
    return (
        f"{other} - {base}: {value} points [{low}, {high}], p = {found.p:.2g} ({found.test}; "
        f"{found.wins} tasks ahead, {found.losses} behind of {found.tasks}{left_out})"
    )


def curve_table(curves: Mapping[str, Curve], ks: Sequence[int] | None = None) -> str:
    """Curves at powers of two and at their end."""
    most = max(int(c.k[-1]) for c in curves.values())
    ks = ks or sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})
    rows = [["k", *curves]]
    for k in ks:
        row = [str(k)]
        for each in curves.values():
            i = k - 1
            shown = k <= each.k[-1]
            row.append(f"{each.value[i]:.1%} [{each.low[i]:.1%}, {each.high[i]:.1%}]" if shown else "-")
        rows.append(row)
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def plot_curves(
    curves: Mapping[str, Curve],
    out: Path,
    what: str = "pass@k",
    crossover: tuple[float, float, float] | None = None,
) -> None:
    """Curves over k on a log axis with 95 % bands, into a PNG. `crossover` is (k*, low, high), drawn if it is
    within the curves."""
    pyplot = load_pyplot()
    figure, axis = pyplot.subplots(figsize=(7.2, 4.4), layout="constrained")
    most = max(int(c.k[-1]) for c in curves.values())
    top = max(float(c.high.max()) for c in curves.values())
    for (label, each), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        dots = {"marker": "o", "markersize": 3.5} if len(each.k) <= 16 else {}
        axis.fill_between(each.k, each.low, each.high, color=colour, alpha=0.16, linewidth=0)
        axis.plot(each.k, each.value, color=colour, linewidth=2, label=label, **dots)
    if crossover and 1 <= crossover[0] <= most:
        k, low, high = crossover
        axis.axvline(k, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        axis.axvspan(max(low, 1), min(high, most), color=FAINT, alpha=0.08, linewidth=0)
        until = f"{high:.3g}" if high <= most else f"beyond {most}"
        note = f"k* {k:.3g}, 95 % interval {max(low, 1):.3g} to {until}"
        axis.annotate(note, (0.98, 0.03), xycoords="axes fraction", ha="right", fontsize=9, color=FAINT)
    problems = sorted({c.problems for c in curves.values()})
    axis.set_title(
        f"{what}, 95 % bands over {' / '.join(map(str, problems))} problems",
        loc="left",
        fontsize=11,
        color=INK,
    )
    finish_axes(axis, most, min(1.02, top * 1.08 + 0.01))
    axis.legend(loc="upper left", frameon=False, fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    pyplot.close(figure)


def finish_axes(axis: Any, most: int, top: float) -> None:
    ticks = [2**i for i in range(most.bit_length()) if 2**i <= most]
    ticks += [most] if most > 1.4 * ticks[-1] else []
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.minorticks_off()
    axis.set_xlim(0.95, most * 1.05 + 0.05)
    axis.set_ylim(0, top)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_xlabel("k attempts", fontsize=9, color=FAINT, loc="right")
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#cccccc")
    axis.grid(axis="y", color="#ececec", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=FAINT, labelsize=9)


def load_pyplot() -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UserError(
            'plots need matplotlib, which is not installed; run pip install "rung[plot]"'
        ) from error
    matplotlib.use("Agg")  # a file, never a window
    from matplotlib import pyplot

    return pyplot
