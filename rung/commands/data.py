"""`rung data show` prints what of a row is trained; `rung data check` says what is wrong with a file."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import tyro

from rung.data.rows import HistoryThinking, Overlong
from rung.errors import UserError

if TYPE_CHECKING:
    from rung.batch import Example
    from rung.data.documents import Encoder


@dataclass(frozen=True)
class DataShow:
    """Print rows as tokens, coloured by what is trained."""

    file: tyro.conf.Positional[str]
    """JSONL, JSON or Parquet file, a folder of them, or a hub id."""
    model: str = "smollm2-135m"
    """The model whose tokenizer and chat template are used."""
    first: int = 1
    """The first row to show, counted from 1."""
    rows: int = 3
    """How many rows to show."""
    tokens: bool = False
    """One token a line, each with its mask (1 is trained), instead of running text."""
    history_thinking: HistoryThinking = "template"
    """What later turns see of earlier reasoning: what the template shows, all (keep), none (strip)."""


@dataclass(frozen=True)
class DataCheck:
    """Read a whole file as training would; exit 1 if it holds rows that cannot be used."""

    file: tyro.conf.Positional[str]
    """JSONL, JSON or Parquet file, a folder of them, or a hub id."""
    model: str = "smollm2-135m"
    """The model whose tokenizer and chat template are used."""
    kind: Literal["auto", "sft", "pairs", "feedback"] = "auto"
    """What the rows must be fit for; auto goes by the first row."""
    max_length: int = 0
    """Tokens a sequence may have; 0 is no limit."""
    overlong: Overlong = "drop"
    """What happens to longer sequences: drop, or truncate their end."""
    history_thinking: HistoryThinking = "template"
    """What later turns see of earlier reasoning: what the template shows, all (keep), none (strip)."""
    limit: int = 20
    """How many problems to list."""


def encoder_for(model: str, history_thinking: HistoryThinking) -> Encoder:
    from rung.data.documents import Encoder
    from rung.data.tokens import token_policy
    from rung.models.hub import load_tokenizer

    tokenizer = load_tokenizer(model)
    return Encoder(tokenizer, token_policy(tokenizer), history_thinking)


def show(settings: DataShow) -> int:
    from rung.data.check import kind_of
    from rung.data.examples import tokenised
    from rung.data.truncate import Dropped

    if settings.first < 1 or settings.rows < 1:
        raise UserError(f"first is {settings.first} and rows is {settings.rows}; both count from 1.")
    kind = kind_of(settings.file)
    encoder = encoder_for(settings.model, settings.history_thinking)
    rows = tokenised(settings.file, kind, encoder)
    for row, examples in islice(rows, settings.first - 1, settings.first - 1 + settings.rows):
        if isinstance(examples, UserError):
            raise examples
        if isinstance(examples, Dropped) or isinstance(row, UserError):
            continue
        titles = ("chosen", "rejected") if kind.name == "pairs" else ("",)
        for title, of_document in zip(titles, examples, strict=True):
            for number, example in enumerate(of_document, 1):
                part = f", context {number} of {len(of_document)}" if len(of_document) > 1 else ""
                print_example(f"{row.origin} {title}".rstrip() + part, example, encoder, settings.tokens)
    return 0


def print_example(title: str, example: Example, encoder: Encoder, tokens: bool) -> None:
    from rich.console import Console

    from rung.data.show import bracketed, coloured, token_lines

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{title}: {len(example)} tokens, {int(example.trained.sum())} trained", style="bold")
    if tokens:
        console.print("\n".join(token_lines(example, encoder.tokenizer)))
    elif console.is_terminal and not console.no_color:
        console.print(coloured(example, encoder.tokenizer))
    else:
        console.print(bracketed(example, encoder.tokenizer))
    console.print()


def check(settings: DataCheck) -> int:
    from rich.console import Console
    from rich.table import Table

    from rung.data.check import check as check_data

    if settings.max_length < 0 or settings.limit < 0:
        raise UserError(f"max_length is {settings.max_length} and limit is {settings.limit}; use 0 or more.")
    checked = check_data(
        settings.file,
        encoder_for(settings.model, settings.history_thinking),
        kind=settings.kind,
        max_length=settings.max_length or sys.maxsize,
        overlong=settings.overlong,
    )
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("file", settings.file)
    table.add_row("read as", checked.kind)
    for name, value in checked.report.lines():
        table.add_row(name, value)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    for message in checked.errors[: settings.limit]:
        console.print(message)
    if len(checked.errors) > settings.limit:
        console.print(f"... and {len(checked.errors) - settings.limit} more (limit={settings.limit})")
    return 0 if checked.report.kept and not checked.errors else 1
