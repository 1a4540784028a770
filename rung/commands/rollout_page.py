"""`rung rollouts RUN --show ID`: one rollout, every token coloured by what it was worth or how sure it was.

Without colours each token stands on its own line, with its numbers.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rung.commands.terminal import console, number, one_line, plain, print_json, safe
from rung.errors import UserError
from rung.rewards.score import Failure, Score, Verdict
from rung.run import Run

if TYPE_CHECKING:
    from rich.text import Text

    from rung.rollouts.store import Graded, RolloutStore

Colour = Literal["logprob", "entropy", "advantage"]

# The limits between shades, the shades, and what each end means. An advantage is coloured by its share of the
# largest in the rollout, since its scale is the reward's.
SCALES: dict[str, tuple[tuple[float, ...], tuple[str, ...], tuple[str, str]]] = {
    "logprob": (
        (-4.6, -2.3, -0.7, -0.1),
        ("white on red", "black on dark_orange", "black on yellow", "black on pale_green1", "default"),
        ("below 1 %", "above 90 % likely"),
    ),
    "entropy": (
        (0.1, 0.5, 1.0, 2.0),
        (
            "default",
            "black on pale_turquoise1",
            "black on sky_blue1",
            "black on dodger_blue1",
            "white on blue",
        ),
        ("below 0.1 nats: sure", "above 2 nats: torn"),
    ),
    "advantage": (
        (-0.5, -1e-9, 1e-9, 0.5),
        ("white on red", "black on light_coral", "default", "black on pale_green1", "black on green"),
        ("most negative", "most positive"),
    ),
}
ENVIRONMENT = "dim italic"


def show(run: Run, store: RolloutStore, name: str, colour: Colour, as_json: bool) -> int:
    record = find(store, name)
    pieces = token_pieces(run, record)
    if as_json:
        print_json([as_object(name, record, pieces)])
        return 0
    out = console()
    rollout = record.rollout
    out.print(f"{name}  {one_line(rollout.task)}", style="bold")
    for label, value in facts(record):
        out.print(f"{label:<10} {value}")
    prompt, answer = pieces
    out.print("\nprompt", style="bold")
    out.print(safe("".join(prompt)), style="dim")
    out.print()
    if out.is_terminal and not out.no_color:
        out.print(legend(colour))
        out.print(coloured(record, answer, colour))
    else:
        out.print("\n".join(token_lines(record, answer)), soft_wrap=True)
    return 0


def find(store: RolloutStore, name: str) -> Graded:
    round, slash, index = name.partition("/")
    if not (slash and round.isdecimal() and index.isdecimal()):
        raise UserError(f"{name} is no id of a rollout; ids look like 12/3, the fourth rollout of round 12")
    records = store.read(int(round))
    if int(index) >= len(records):
        raise UserError(
            f"round {round} has {len(records)} rollouts, so the last id is {round}/{len(records) - 1}"
        )
    return records[int(index)]


def token_pieces(run: Run, record: Graded) -> tuple[list[str], list[str]]:
    """The text of each token of the prompt and of what followed."""
    from rung.data.tokens import token_texts
    from rung.models.hub import load_tokenizer

    tokenizer = load_tokenizer(model_of(run))
    prompt, answer = record.rollout.prompt_ids.tolist(), record.rollout.token_ids.tolist()
    return token_texts(tokenizer, prompt), token_texts(tokenizer, answer)


def model_of(run: Run) -> str:
    """Whose tokenizer the run used: its own checkpoint's, or before there is one its model's."""
    if run.latest() is not None:
        return str(run.path)
    config = run.config()
    model = config.get("settings", config).get("model")
    if not model:
        raise UserError(
            f"{run.path} has no checkpoint and its config.json names no model, so there is no tokenizer to read its "
            "tokens with; without --show the list needs none"
        )
    return str(model)


def facts(record: Graded) -> list[tuple[str, str]]:
    rollout = record.rollout
    own = rollout.by_model
    versions = sorted({int(v) for v in rollout.version[own]})
    lines = [
        ("verdict", verdict_line(record.verdict)),
        ("finish", rollout.finish),
        ("tokens", f"{int(own.sum())} by the model, {int((~own).sum())} by the environment"),
        ("weights", f"version {' to '.join(str(v) for v in versions[:: max(len(versions) - 1, 1)]) or '-'}"),
    ]
    if own.any():
        means = [
            ("log-prob", rollout.policy_logprob),
            ("entropy", rollout.entropy),
            ("advantage", record.advantage),
        ]
        lines.append(("means", ", ".join(f"{name} {number(float(a[own].mean()))}" for name, a in means)))
    return lines


def verdict_line(verdict: Verdict) -> str:
    if isinstance(verdict, Score):
        parts = ", ".join(f"{one_line(name)} {number(value)}" for name, value in verdict.parts.items())
        return f"score {number(verdict.value)}" + (f" = {parts}" if parts else "")
    if isinstance(verdict, Failure):
        return f"failure ({verdict.kind}) {one_line(verdict.detail)}".rstrip()
    return f"abstain: {one_line(verdict.reason)}"


def values_of(record: Graded, colour: Colour) -> np.ndarray:
    """What a colour stands for, one number per token."""
    if colour == "logprob":
        return record.rollout.policy_logprob
    if colour == "entropy":
        return record.rollout.entropy
    largest = np.abs(record.advantage).max(initial=0.0)
    return record.advantage / largest if largest > 0 else record.advantage


def style_of(value: float, colour: Colour) -> str:
    limits, styles, _ = SCALES[colour]
    return styles[bisect.bisect_right(limits, value)]


def coloured(record: Graded, pieces: list[str], colour: Colour) -> Text:
    from rich.text import Text

    text, values = Text(), values_of(record, colour)
    for piece, value, own in zip(pieces, values, record.rollout.by_model, strict=True):
        text.append(
            safe(piece).replace("\n", "⏎\n"), style=style_of(float(value), colour) if own else ENVIRONMENT
        )
    return text


def legend(colour: Colour) -> Text:
    from rich.text import Text

    _, styles, (low, high) = SCALES[colour]
    text = Text(f"{colour}: {low} ")
    for style in styles:
        text.append("  a  ", style=style)
    return text.append(f" {high}; ").append("written by the environment", style=ENVIRONMENT)


def token_lines(record: Graded, pieces: list[str]) -> list[str]:
    """`log-prob entropy advantage 'text'` a line; `-` for what the environment wrote."""
    rollout, lines = record.rollout, [f"{'log-prob':>9} {'entropy':>9} {'advantage':>9}  token"]
    for i, piece in enumerate(pieces):
        numbers = (rollout.policy_logprob[i], rollout.entropy[i], record.advantage[i])
        shown = [f"{value:>9.3f}" if rollout.by_model[i] else f"{'-':>9}" for value in numbers]
        lines.append(f"{' '.join(shown)}  {piece!r}")
    return lines


def as_object(name: str, record: Graded, pieces: tuple[list[str], list[str]]) -> dict[str, Any]:
    rollout, verdict = record.rollout, record.verdict
    tokens = {"token_ids": rollout.token_ids, "by_model": rollout.by_model, "version": rollout.version}
    tokens |= {"sampler_logprob": rollout.sampler_logprob, "logprob": rollout.policy_logprob}
    tokens |= {"entropy": rollout.entropy, "advantage": record.advantage}
    return plain(
        {"id": name, "task": rollout.task, "group": rollout.group, "verdict": type(verdict).__name__.lower()}
        | {key: dict(value) if key == "parts" else value for key, value in vars(verdict).items()}
        | {"finish": rollout.finish, "digest": rollout.digest, "text": rollout.text}
        | {"prompt": "".join(pieces[0]), "tokens": pieces[1]}
        | {key: column.tolist() for key, column in tokens.items()}
    )
