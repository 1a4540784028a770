"""The console script `rung`: find the command, read its settings, call it, turn the end into an exit status.

    0  done          1  the command's own no          2  the user's error, said in one message
    130  interrupted          141  the reader of our output went away          other  a run that stopped

Nothing heavy is imported here; see `rung.commands` for the table of commands.
"""

from __future__ import annotations

import difflib
import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from rung import __version__
from rung.commands import COMMANDS, Command
from rung.errors import RunStopped, UserError
from rung.machine import share_cores
from rung.publish import DISK_FULL


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit."""
    sys.exit(status(sys.argv[1:] if argv is None else argv))


def status(argv: Sequence[str]) -> int:
    """Run a command line; its exit status. A bug keeps its traceback."""
    share_cores()
    try:
        code = dispatch(list(argv))
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"rung: error: {error}", file=sys.stderr)
        return 2
    except RunStopped as stop:
        print(f"rung: {stop}", file=sys.stderr)
        return stop.code
    except BrokenPipeError:
        forget_output()
        return 141
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = f", {error.filename} could not be written" if error.filename else ""
        print(
            f"rung: the disk is full{where}. What was whole before is kept. Free some space, then give the same command "
            "again, or for a run that has saved: --resume RUN",
            file=sys.stderr,
        )
        forget_output()
        return 1
    except KeyboardInterrupt:
        print("rung: interrupted", file=sys.stderr)
        return 130


def forget_output() -> None:
    """The interpreter flushes stdout once more at exit; what cannot be written goes nowhere."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"rung {__version__}")
        return 0
    name, rest = command_name(argv)
    if name not in COMMANDS:  # `rung data` alone, or with --help
        print(overview(name))
        return 0 if rest else 2
    command = COMMANDS[name]
    return call(command, name, rest)


def call(command: Command, name: str, argv: list[str]) -> int:
    from rung.config import parse

    module = importlib.import_module(f"rung.commands.{command.module}")
    settings = parse(getattr(module, command.settings), argv, prog=f"rung {name}")
    return getattr(module, command.function)(settings) or 0


def command_name(argv: list[str]) -> tuple[str, list[str]]:
    """The command, of two words or one, and the words that follow it; a family's name if it stands alone."""
    if " ".join(argv[:2]) in COMMANDS:  # `rung eval show DIR` is not `rung eval` of a model called show
        return " ".join(argv[:2]), argv[2:]
    if argv[0] in COMMANDS:
        return argv[0], argv[1:]
    family = [name for name in COMMANDS if name.startswith(argv[0] + " ")]
    if family and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        return argv[0], argv[1:]
    name = " ".join(argv[:2]) if family else argv[0]
    near = difflib.get_close_matches(name, family or spellings(), n=1)
    hint = (
        f"did you mean `rung {near[0]}`?" if near else f"`rung {argv[0] + ' ' if family else ''}--help` lists"
    )
    raise UserError(f"there is no command `{name}`; {hint}" + ("" if near else " the commands"))


def spellings() -> list[str]:
    """Everything a first word could have been meant to be."""
    return list(dict.fromkeys([*COMMANDS, *(name.split()[0] for name in COMMANDS)]))


def overview(family: str = "") -> str:
    """The commands under their headings, fitted to the terminal."""
    shown = {name: c for name, c in COMMANDS.items() if name.startswith(family + " " if family else "")}
    width = max(shutil.get_terminal_size().columns, 30)
    left = max(len(name) for name in shown) + 6
    usage = f"rung {family} COMMAND" if family else "rung COMMAND"
    usage = f"usage: {usage} [--config FILE.yaml] [--key VALUE | key=VALUE ...]"
    title = [] if family else ["rung: every rung of LLM post-training in one readable codebase"]
    footer = "`rung COMMAND --help` explains a command; `rung config explain` explains a key."
    lines = [line for text in [*title, usage] for line in [*textwrap.wrap(text, width), ""]]
    for group in dict.fromkeys(command.group for command in shown.values()):
        lines.append(group)
        for name, command in shown.items():
            if command.group == group:
                lines += entry(name, command.help, left, width)
        lines.append("")
    return "\n".join([*lines, *textwrap.wrap(footer, width)])


def entry(name: str, text: str, left: int, width: int) -> list[str]:
    """`  name    text`, the text below the name where the terminal is too narrow for two columns."""
    if width - left < 24:
        return [f"  {name}", *textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="      ")]
    first, *more = textwrap.wrap(text, width - left)
    return [f"  {name}".ljust(left) + first, *(" " * left + line for line in more)]
