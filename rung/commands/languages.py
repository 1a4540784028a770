"""`rung languages`: which languages the sandbox can run here, and how to get the others."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any

from rung.errors import UserError

ANSWER_SECONDS = 10  # of a toolchain asked for its version


@dataclass(frozen=True)
class Languages:
    """The languages of the sandbox: what this machine has, in which version, and how to get the rest."""

    check: bool = False
    """Compile and run the smallest program of each in the sandbox."""
    unsafe: bool = False
    """With --check: run without isolation, on this machine as it is."""
    json: bool = False
    """Print one JSON object instead."""


def main(settings: Languages) -> int:
    report = examine(settings)
    if settings.json:
        import json

        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 0


def examine(settings: Languages) -> dict[str, Any]:
    """Every language as plain data, and the state of the sandbox."""
    from rung.sandbox.languages import LANGUAGES, toolchain

    found: dict[str, Any] = {}
    for name, language in LANGUAGES.items():
        tools = toolchain(name)
        found[name] = {
            "title": language.title,
            "version": version(tools.version) if tools else None,
            "install": language.install,
        }
        if settings.check and tools:
            found[name]["check"] = check(name, language.hello, settings.unsafe)
    return {"sandbox": isolation(), "languages": found}


def version(command: tuple[str, ...]) -> str:
    """The first line with a digit that a toolchain prints of itself."""
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"hangs: {command[0]} did not answer within {ANSWER_SECONDS} s"
    except OSError as error:
        return f"broken: {error}"
    lines = [line.strip() for line in (answer.stdout + answer.stderr).splitlines()]
    told = [line for line in lines if any(letter.isdigit() for letter in line) and "warning" not in line]
    return told[0][:60] if told else "of unknown version"


def check(name: str, hello: str, unsafe: bool) -> str:
    from rung.sandbox.pool import run
    from rung.sandbox.program import Program
    from rung.sandbox.result import Passed

    result = run(Program(name, hello), unsafe=unsafe)
    return (
        "runs" if isinstance(result, Passed) else f"{type(result).__name__}: {result.stderr.strip()[-200:]}"
    )


def isolation() -> str:
    """Whether programs can be isolated here, in a sentence."""
    from rung.sandbox import bubblewrap, cgroup, seccomp

    try:
        bubblewrap.require()
    except UserError as error:
        return str(error)
    parts = [
        "bubblewrap",
        "a system-call filter" if seccomp.program() else "NO system-call filter for this processor",
    ]
    parts.append(
        "control groups" if cgroup.parents() else "no control groups: memory and processes are watched"
    )
    return "programs are isolated: " + ", ".join(parts)


def show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    out = Console(highlight=False)
    table = Table("language", "here", box=None, pad_edge=False, header_style="bold")
    for row in report["languages"].values():
        here = (
            escape(row["version"])
            if row["version"]
            else f"[dim]no; to get it: [/][cyan]{escape(row['install'])}[/]"
        )
        table.add_row(row["title"], here + (f"  [dim]{escape(row['check'])}[/]" if "check" in row else ""))
    out.print(table)
    out.print(f"\n{escape(report['sandbox'])}", soft_wrap=True)
