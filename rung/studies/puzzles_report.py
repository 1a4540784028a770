"""The puzzle study as one page: pass@k of every language with bands, its mistakes, its price, every puzzle."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rung.eval.passk import Curve
from rung.eval.report import COLOURS, FAINT, INK, finish_axes, load_pyplot
from rung.studies.mistakes import KINDS, MEANINGS
from rung.studies.puzzles import Cell, Study

if TYPE_CHECKING:
    from rung.studio.page import Page

COLUMNS = 3


def report(made: Study, page: Page) -> None:
    """Puts the study on a page."""
    page.heading("pass@k")
    page.table(score_table(made))
    missing = [f"{cell.title} ({cell.missing})" for cell in made.cells if cell.evaluation is None]
    if missing:
        page.text(f"Not on this machine, and so not measured: {'; '.join(missing)}.", soft=True)
    page.text(
        "pass@k is the unbiased estimator, averaged over puzzles; intervals are 95 %, from resampling puzzles.",
        soft=True,
    )
    if any(curve_of(cell) for cell in made.judged):
        with tempfile.TemporaryDirectory() as folder:
            plot(made, Path(folder) / "curves.png")
            page.picture(Path(folder) / "curves.png", "pass@k of each language with its 95 % band")
    page.heading("What went wrong")
    page.table(mistake_table(made))
    page.table([["kind", "meaning"], *([kind, MEANINGS[kind]] for kind in KINDS)])
    page.heading("For example")
    page.table(evidence_table(made))
    page.heading("Every puzzle")
    page.table(puzzle_table(made))


def curve_of(cell: Cell) -> Curve | None:
    return cell.evaluation.tally.pass_at if cell.evaluation else None


def score_table(made: Study) -> list[list[str]]:
    last = f"pass@{made.samples}"
    rows = [
        ["language", "pass@1", "95 %", last, "95 %", "unscored", "tokens an answer", "tokens a right one"]
    ]
    if made.samples == 1:
        rows[0][3:5] = []
    for cell in made.judged:
        assert cell.evaluation
        tally, curve, price = cell.evaluation.tally, curve_of(cell), cell.tokens_per_right()
        shown = [cell.title, *at(curve, 1), *(at(curve, made.samples) if made.samples > 1 else [])]
        shown += [str(tally.attempts - tally.scored), f"{tally.mean_tokens:,.0f}"]
        rows.append([*shown, f"{price:,.0f}" if price else "-"])
    return rows


def at(curve: Curve | None, k: int) -> list[str]:
    """Value and interval; dashes where too few attempts were scored for this k."""
    if curve is None or k > len(curve.k):
        return ["-", "-"]
    return [f"{curve.value[k - 1]:.1%}", f"{curve.low[k - 1]:.1%} to {curve.high[k - 1]:.1%}"]


def mistake_table(made: Study) -> list[list[str]]:
    rows = [["language", *(kind.replace("_", " ") for kind in KINDS), "wrong"]]
    for cell in made.judged:
        counts = cell.counts()
        rows.append([cell.title, *(str(counts[kind]) for kind in KINDS), str(sum(counts.values()))])
    return rows


def evidence_table(made: Study) -> list[list[str]]:
    """The most frequent evidence of each kind in each language."""
    rows = [["language", "kind", "what was said", "times"]]
    for cell in made.judged:
        for kind in KINDS:
            said = [each.evidence for _, _, each in cell.mistakes if each.kind == kind and each.evidence]
            if said:
                common = max(dict.fromkeys(said), key=said.count)
                rows.append([cell.title, kind, common, str(said.count(common))])
    return rows


def puzzle_table(made: Study) -> list[list[str]]:
    """Right of scored attempts; a dash where none was scored."""
    right = [cell.right() for cell in made.judged]
    names = list(dict.fromkeys(name for each in right for name in each))
    rows = [["puzzle", *(cell.title for cell in made.judged)]]
    for name in names:
        cells = [each.get(name, (0, 0)) for each in right]
        rows.append([name, *(f"{good}/{scored}" if scored else "-" for good, scored in cells)])
    return rows


def plot(made: Study, file: Path) -> None:
    """One small chart per language on common axes."""
    drawn = [(cell.title, curve) for cell in made.judged if (curve := curve_of(cell))]
    pyplot = load_pyplot()
    lines = math.ceil(len(drawn) / COLUMNS)
    figure, axes = pyplot.subplots(
        lines, COLUMNS, figsize=(9.6, 2.6 * lines + 0.3), squeeze=False, layout="constrained"
    )
    most, top = max(len(c.k) for _, c in drawn), max(float(c.high.max()) for _, c in drawn)
    for axis, (title, curve) in zip(axes.flat, drawn, strict=False):
        axis.fill_between(curve.k, curve.low, curve.high, color=COLOURS[0], alpha=0.16, linewidth=0)
        axis.plot(curve.k, curve.value, color=COLOURS[0], linewidth=2, marker="o", markersize=3)
        axis.set_title(title, loc="left", fontsize=11, color=INK)
        axis.annotate(
            f"{curve.problems} puzzles",
            (0.98, 0.04),
            xycoords="axes fraction",
            ha="right",
            fontsize=8,
            color=FAINT,
        )
        finish_axes(axis, most, min(1.02, top * 1.08 + 0.01))
    for axis in axes.flat[len(drawn) :]:
        axis.set_visible(False)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
