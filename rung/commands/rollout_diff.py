"""`rung rollouts RUN --diff A B`: the tasks that both rounds tried, what changed in reward and length."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from rung.commands.terminal import console, number, one_line, print_json

Row = dict[str, Any]


def diff(rows: list[Row], first: int, second: int, *, limit: int, json: bool) -> int:
    before, after = by_task(rows, first), by_task(rows, second)
    changes = sorted((change(task, before[task], after[task]) for task in before if task in after), key=order)
    shown = changes[: limit or None]
    if json:
        print_json(shown)
        return 0
    out = console()
    alone = f"{len(before.keys() - after.keys())} only in {first}, {len(after.keys() - before.keys())} only in {second}"
    out.print(f"rounds {first} and {second}: {len(changes)} tasks in both, {alone}", style="bold")
    from rich.text import Text

    for entry in shown:
        out.print()
        out.print(Text(one_line(entry["task"]), style="bold"), no_wrap=True, overflow="ellipsis", crop=True)
        reward = f"reward {number(entry['reward_before'])} -> {number(entry['reward_after'])}"
        gain = entry["reward_change"]
        colour = "green" if gain and gain > 0 else "red" if gain else ""
        text = Text(reward + (f" ({gain:+.3g})" if gain is not None else ""), style=colour)
        out.print(
            text.append(
                f"   tokens {entry['length_before']:.0f} -> {entry['length_after']:.0f}", style="default"
            )
        )
        for name, side in ((first, "before"), (second, "after")):
            line = f"{name:>6}  {one_line(entry['text_' + side])}"
            out.print(Text(line, style="dim"), no_wrap=True, overflow="ellipsis", crop=True)
    return 0


def by_task(rows: list[Row], round: int) -> dict[str, list[Row]]:
    tasks: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["round"] == round:
            tasks[row["task"]].append(row)
    return dict(tasks)


def change(task: str, before: list[Row], after: list[Row]) -> dict[str, Any]:
    """Means over the attempts of a round; the text is of its first attempt."""
    rewards = [mean([row["reward"] for row in rows if row["reward"] is not None]) for rows in (before, after)]
    lengths = [mean([row["model_tokens"] for row in rows]) or 0.0 for rows in (before, after)]
    known = rewards[0] is not None and rewards[1] is not None
    return {
        "task": task,
        "reward_before": rewards[0],
        "reward_after": rewards[1],
        "reward_change": rewards[1] - rewards[0] if known else None,  # type: ignore[operator]
        "length_before": lengths[0],
        "length_after": lengths[1],
        "text_before": before[0]["text"],
        "text_after": after[0]["text"],
    }


def order(entry: dict[str, Any]) -> tuple[float, float]:
    """The largest change of reward first, then of length; a task without rewards to compare comes last."""
    gain = entry["reward_change"]
    return (-abs(gain) if gain is not None else 1.0, -abs(entry["length_after"] - entry["length_before"]))


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
