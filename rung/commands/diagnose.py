"""`rung diagnose RUN...`: what is wrong with a run, how that is known, what to do; and what nobody could see."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from rung.errors import UserError
from rung.run import Run

if TYPE_CHECKING:
    from rich.console import Console

    from rung.diagnose.health import Finding
    from rung.diagnose.report import Report

COLOURS = {"stop": "bold red", "warn": "yellow"}


@dataclass(frozen=True)
class Diagnose:
    """Read run folders and name what went wrong in them, worst first; several runs also side by side."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    "one or more run folders"
    strict: bool = False
    "exit with 1 when a run has a finding to stop for"
    json: bool = False
    "one JSON object a run, one a line, for scripts"


def main(settings: Diagnose) -> int:
    from rung.diagnose.report import diagnose

    if not settings.runs:
        raise UserError("rung diagnose needs a run folder, as in rung diagnose runs/first")
    for path in settings.runs:  # a folder that is no run is said before the others are read
        Run.open(path)
    reports = []
    for number, path in enumerate(settings.runs):
        report = diagnose(path)
        reports.append(report)
        if settings.json:
            print(json.dumps(as_json(report), allow_nan=False))
        else:
            from rung.commands.terminal import console

            console().print() if number else None
            print_report(report, console())
    if len(reports) > 1 and not settings.json:
        from rung.commands.terminal import console

        compare(reports, console())
    return int(settings.strict and any(report.stops for report in reports))


# ---- one run ----


def print_report(report: Report, out: Console) -> None:
    from rich.text import Text

    status = Run.open(report.path).status()
    reason = f": {status['reason']}" if status.get("reason") else ""
    out.print(Text.assemble((str(report.path), "bold"), f"  {printable(status['state'] + reason)}"))
    for finding in report.findings:
        out.print()
        head = f"{finding.severity}  {finding.name}, {finding.unit} {finding.round}"
        out.print(Text(head, style=COLOURS[finding.severity]))
        indented(out, printable(finding.evidence))
        indented(out, printable(f"remedy: {finding.remedy.replace('RUN', str(report.path))}"), style="cyan")
    seen = [(look.name, look.saw) for look in report.looks if look.saw]
    unseen = [(look.name, look.unseen) for look in report.looks if look.unseen]
    out.print()
    if not report.findings:
        verdict = ("nothing wrong was found", "green") if seen else ("nothing could be looked at", "yellow")
        out.print(Text(*verdict))
    for title, lines in (("looked at", seen), ("not seen", unseen)):
        if lines:
            out.print(Text(title, style="bold"))
        for name, text in lines:
            indented(out, f"{name}: {printable(text)}")


def indented(out: Console, text: str, style: str = "") -> None:
    from rich.padding import Padding
    from rich.text import Text

    out.print(Padding(Text(text, style=style), (0, 0, 0, 2), expand=False))


def printable(text: str) -> str:
    from rung.commands.terminal import one_line

    return one_line(text)


# ---- several ----


def compare(reports: list[Report], out: Console) -> None:
    """A line for each finding that any run has, a column for each run."""
    from rich.table import Table
    from rich.text import Text

    from rung.commands.runs import short_names
    from rung.diagnose.report import order

    findings = sorted((f for report in reports for f in report.findings), key=order)
    rows = list(dict.fromkeys(finding.name for finding in findings))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", overflow="fold")
    for label in short_names([report.path for report in reports]):
        table.add_column(Text(label), overflow="fold")
    for name in rows:
        table.add_row(name, *(cell(report, name) for report in reports))
    table.add_row("not seen", *(str(sum(bool(look.unseen) for look in report.looks)) for report in reports))
    out.print()
    out.print(table)


def cell(report: Report, name: str) -> Any:
    from rich.text import Text

    found: Finding | None = next((f for f in report.findings if f.name == name), None)
    if found is None:
        return Text("-", style="dim")
    return Text(f"{found.severity}, {found.unit} {found.round}", style=COLOURS[found.severity])


def as_json(report: Report) -> dict[str, Any]:
    return {
        "run": str(report.path),
        "state": Run.open(report.path).status()["state"],
        "findings": [asdict(finding) for finding in report.findings],
        "looked_at": {look.name: look.saw for look in report.looks if look.saw},
        "not_seen": {look.name: look.unseen for look in report.looks if look.unseen},
    }
