"""How what a run holds is printed: numbers, lines, JSON, and text that a model wrote."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from rung.run import encode

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """The terminal; without one lines are longer, since nothing wraps them."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 160
    return Console(highlight=False, markup=False, width=width)


def print_json(rows: Any) -> None:
    for row in rows:
        print(json.dumps(plain(row), allow_nan=False))


def plain(value: Any) -> Any:
    """What JSON can say; infinite and undefined numbers become text, as in metrics.jsonl."""
    if isinstance(value, float):
        return encode(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def one_line(text: str) -> str:
    return " ".join(safe(text).split())


def safe(text: str) -> str:
    """A model may write anything; control characters would move the reader's cursor or colour the screen."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
