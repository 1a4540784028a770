"""`rung config explain`: what a key of a command means, what it takes, where it starts from."""

from __future__ import annotations

import importlib
from dataclasses import MISSING, dataclass

import tyro

from rung.commands import COMMANDS
from rung.errors import UserError
from rung.keys import ALIASES, known
from rung.schema import Leaf, describe, leaves


@dataclass(frozen=True)
class ConfigExplain:
    """Say what a key means; without a key, every key of the command in one table."""

    key: tyro.conf.Positional[str] = ""
    "the key, such as lora.rank, or an alias such as lora_r"
    command: str = "sft"
    "the command whose key it is"


def explain(settings: ConfigExplain) -> int:
    if settings.command not in COMMANDS:
        raise UserError(f"there is no command {settings.command!r}; `rung --help` lists them")
    command = COMMANDS[settings.command]
    module = importlib.import_module(f"rung.commands.{command.module}")
    table = leaves(getattr(module, command.settings))
    if settings.key:
        print(explanation(known(settings.key, table, f"rung {settings.command}"), table))
    else:
        print_all(table)
    return 0


def explanation(leaf: Leaf, table: dict[str, Leaf]) -> str:
    aliases = [
        a for a, targets in ALIASES.items() if next((t for t in targets if t in table), "") == leaf.key
    ]
    lines = [leaf.key, f"  {leaf.help}" if leaf.help else "  (no explanation)"]
    lines += [f"  takes    {describe(leaf.type)}", f"  default  {shown_default(leaf)}"]
    return "\n".join([*lines, f"  aliases  {', '.join(aliases)}"] if aliases else lines)


def shown_default(leaf: Leaf) -> str:
    if leaf.default is MISSING:
        return "none: it must be given"
    return " ".join(leaf.spec.str_from_instance(leaf.default)) or "(empty)"


def print_all(table: dict[str, Leaf]) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = Table(box=None, pad_edge=False, header_style="bold")
    rows.add_column("key", no_wrap=True)
    for column in ("takes", "default", "meaning"):
        rows.add_column(column)
    for leaf in table.values():
        rows.add_row(leaf.key, describe(leaf.type), shown_default(leaf), leaf.help)
    Console().print(rows)
