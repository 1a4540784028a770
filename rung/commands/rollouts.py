"""`rung rollouts RUN`: every rollout of a run, searched, sorted, shown token by token, compared between rounds."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from rung.commands.terminal import console, number, one_line, print_json
from rung.errors import UserError
from rung.run import Run

if TYPE_CHECKING:
    from rich.console import Console

    from rung.rollouts.store import RolloutStore

Row = dict[str, Any]
SORTED_BY = {
    "reward": "reward",
    "length": "model_tokens",
    "entropy": "mean_entropy",
    "advantage": "mean_advantage",
}
LISTED = [
    "id", "round", "task", "group", "verdict", "reward", "parts", "failure", "detail", "finish", "prompt_tokens",
    "model_tokens", "mean_logprob", "mean_entropy", "mean_advantage", "digest", "text",
]  # fmt: skip


@dataclass(frozen=True)
class Rollouts:
    """Look at the rollouts of a run: a list, one of them token by token, or two rounds side by side."""

    run: tyro.conf.Positional[Path]
    "a run folder"
    sort: Literal["round", "reward", "length", "entropy", "advantage"] = "round"
    "what comes first: the newest round, or the highest of something"
    lowest: bool = False
    "the lowest first, or the oldest round"
    task: str = ""
    "only tasks with this in their name"
    round: int | None = None
    "only this round"
    contains: str = ""
    "only rollouts whose text holds this"
    regex: str = ""
    "only rollouts whose text matches this regular expression"
    failed: bool = False
    "only rollouts without a score: the grader failed or abstained"
    limit: int = 20
    "how many to list; 0 is all"
    show: str = ""
    "one rollout in full, by its id, such as 12/3"
    colour: Literal["logprob", "entropy", "advantage"] = "logprob"
    "what colours the tokens of the rollout that is shown"
    diff: tuple[int, int] | None = None
    "two rounds: the same tasks side by side, most changed first"
    json: bool = False
    "one JSON object a line, for scripts"

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise UserError(f"limit is {self.limit}; write how many to list, or 0 for all")
        if self.show and self.diff:
            raise UserError("--show and --diff ask for two different pages; give one of them")
        if self.colour != "logprob" and not self.show:
            raise UserError(
                "--colour is for the rollout that --show ID shows; add its id, such as --show 12/3"
            )


def main(settings: Rollouts) -> int:
    from rung.rollouts.store import RolloutStore

    run = Run.open(settings.run)
    store = RolloutStore(run.path)
    rounds = store.rounds()
    if not rounds:
        if not settings.json:
            print(
                f"no rollouts in {run.path} yet; a run that learns from rewards writes each round as it is graded"
            )
        return 0
    asked = [r for r in (settings.round, *(settings.diff or ())) if r is not None]
    missing = [str(round) for round in asked if round not in rounds]
    if missing:
        raise UserError(f"{run.path} holds no rollouts of round {', '.join(missing)}; it has {spans(rounds)}")
    if settings.show:
        from rung.commands.rollout_page import show

        return show(run, store, settings.show, settings.colour, settings.json)
    if settings.diff:
        from rung.commands.rollout_diff import diff

        rows = list(selected(store, settings, list(settings.diff)))
        return diff(rows, *settings.diff, limit=settings.limit, json=settings.json)
    return list_rollouts(store, settings, rounds)


def list_rollouts(store: RolloutStore, settings: Rollouts, rounds: list[int]) -> int:
    wanted = rounds if settings.round is None else [settings.round]
    rows = ordered(store, settings, wanted)
    if settings.json:
        print_json(rows)
        return 0
    listed, out = list(rows), console()
    if not listed:
        out.print("no rollout is like that")
        return 0
    shown = SORTED_BY.get(settings.sort, "")
    extra = shown if shown.startswith("mean_") else ""
    print_rows(listed, out, settings.sort if extra else "", extra)
    return 0


def print_rows(rows: list[Row], out: Console, title: str, extra: str) -> None:
    """One line a rollout: the text takes what the terminal leaves, and task and finish need a wide one."""
    from rich.text import Text

    wide = out.width >= 70
    lines = [["id", *(["task"] if wide else []), "reward", "tokens", *([title] if title else [])]]
    lines[0] += [*(["finish"] if wide else []), "text"]
    lines += [cells(row, wide, extra) for row in rows]
    widths = [
        min(max(len(line[i]) for line in lines), max(out.width // 4, 8)) for i in range(len(lines[0]) - 1)
    ]
    for place, line in enumerate(lines):
        text = Text(style="bold" if place == 0 else "")
        for i, width in enumerate(widths):
            cell = Text(line[i])
            cell.truncate(width, overflow="ellipsis")
            (cell.pad_right if lines[0][i] in ("id", "task", "finish") else cell.pad_left)(
                width - cell.cell_len
            )
            text.append(cell).append("  ")
        last = Text(line[-1])
        last.truncate(max(out.width - text.cell_len, 1), overflow="ellipsis")
        out.print(text.append(last), no_wrap=True, crop=True)


def cells(row: Row, wide: bool, extra: str) -> list[str]:
    task, finish = ([one_line(row[name])] if wide else [] for name in ("task", "finish"))
    more = [number(row[extra])] if extra else []
    return [row["id"], *task, verdict(row), str(row["model_tokens"]), *more, *finish, one_line(row["text"])]


# ---- which rollouts, in which order ----


def selected(store: RolloutStore, settings: Rollouts, rounds: list[int]) -> Iterator[Row]:
    try:
        pattern = re.compile(settings.regex) if settings.regex else None
    except re.error as error:
        raise UserError(f"--regex {settings.regex!r} is no regular expression: {error}") from error
    for row in store.scan(LISTED, rounds):
        if settings.task not in row["task"] or settings.contains not in row["text"]:
            continue
        if (pattern and not pattern.search(row["text"])) or (settings.failed and row["verdict"] == "score"):
            continue
        yield row


def ordered(store: RolloutStore, settings: Rollouts, rounds: list[int]) -> Iterator[Row]:
    """As many as asked for, without holding more than that in memory. Without a value a row comes last."""
    from heapq import nlargest, nsmallest
    from itertools import islice

    limit = settings.limit or sys.maxsize
    if settings.sort == "round":
        order = sorted(rounds, reverse=not settings.lowest)
        yield from islice(selected(store, settings, order), limit)
        return
    column, sign = SORTED_BY[settings.sort], 1 if settings.lowest else -1
    known = (row for row in selected(store, settings, rounds) if is_number(row[column]))
    if settings.limit:
        take = nsmallest if settings.lowest else nlargest
        best = take(limit, known, key=lambda row: row[column])
    else:
        best = sorted(known, key=lambda row: sign * row[column])
    yield from best
    if len(best) < limit:
        others = (row for row in selected(store, settings, rounds) if not is_number(row[column]))
        yield from islice(others, limit - len(best))


# ---- how they look ----


def verdict(row: Row) -> str:
    return number(row["reward"]) if row["verdict"] == "score" else row["failure"] or "abstain"


def is_number(value: float | None) -> bool:
    return value is not None and value == value


def spans(rounds: list[int]) -> str:
    """`1 to 5, 9`."""
    found: list[list[int]] = []
    for round in rounds:
        if found and round == found[-1][-1] + 1:
            found[-1] = [found[-1][0], round]
        else:
            found.append([round])
    return ", ".join(" to ".join(map(str, dict.fromkeys(span))) for span in found)
