"""Who answers better, by a judge: every pair of sides on every prompt they share, in both orders.

    sides (result folders, files of answers, models) -> games -> win rate, length-controlled win rate, Elo

A side's answer to a prompt is its first. Duels without a verdict are counted with their reasons and are neither ties
nor losses. The judge's share of consistent duels is reported: where it is near a half, places were judged, not answers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from rung.data.files import read_rows
from rung.data.prompts import Prompt, prompt_of, read_prompts
from rung.endpoint import is_url
from rung.errors import RunStopped, UserError
from rung.eval.intervals import Estimate
from rung.eval.ratings import Game, LengthControlled, bradley_terry, length_controlled, win_rate
from rung.eval.report import aligned
from rung.eval.results import read
from rung.rewards.asking import Ledger, Question, Reply
from rung.rewards.judge import Duel, Pairwise, Preference, transcript


@dataclass(frozen=True)
class Side:
    """Somebody's answers: the transcript of a prompt -> (its messages, the answer)."""

    name: str
    answers: Mapping[str, tuple[tuple[Mapping[str, Any], ...], str]]


@dataclass(frozen=True)
class Judged:
    """What a tournament came to. `games` are those with a verdict; `abstained` counts the others by reason."""

    sides: tuple[str, ...]
    games: list[Game]
    consistent: dict[tuple[str, str], int]
    abstained: dict[tuple[str, str], Counter[str]]
    unshared: int  # prompts that not all sides answered

    def of(self, pair: tuple[str, str]) -> list[Game]:
        return [game for game in self.games if (game.first, game.second) == pair]


def open_side(
    name: str,
    prompts: str,
    limit: int,
    ledger_of: Callable[[str], Ledger],
    max_tokens: int,
    temperature: float,
) -> Side:
    """A folder of `rung eval`, a file with prompts and completions, or a model that answers `prompts` now."""
    folder = Path(name)
    if (folder / "result.json").is_file():
        return of_result(folder)
    if folder.suffix in (".jsonl", ".json", ".parquet"):
        return of_file(folder)
    if not prompts:
        kind = "a server" if is_url(name) else "neither a result folder of `rung eval` nor a file of answers"
        raise UserError(f"{name} is {kind}, so it has to answer now: add --prompts FILE.jsonl")
    return answered(name, read_prompts(prompts, limit), ledger_of(name), max_tokens, temperature)


def of_result(folder: Path) -> Side:
    result = read(folder)
    first = {sample.task: sample for sample in reversed(result.samples) if sample.index == 0}
    shown = {prompt.task: tuple(prompt.messages) for prompt in result.prompts}
    return Side(
        str(folder), {transcript(shown[task]): (shown[task], each.answer) for task, each in first.items()}
    )


def of_file(file: Path) -> Side:
    """Rows as `rung generate --file` prints them, and any other with a prompt and an answer."""
    answers: dict[str, tuple[tuple[Mapping[str, Any], ...], str]] = {}
    for row, origin in read_rows(str(file)):
        prompt = tuple(prompt_of(row, origin))
        answer = answer_of(row)
        if answer is None:
            raise UserError(
                f"{origin}: a prompt without an answer; write `completion`, `output`, or `messages` that end with one"
            )
        answers.setdefault(transcript(prompt), (prompt, answer))
    return Side(str(file), answers)


def answer_of(row: Mapping[str, Any]) -> str | None:
    for name in ("completion", "output", "answer"):
        value = row.get(name)
        if isinstance(value, list) and value and isinstance(value[-1], Mapping):
            value = value[-1].get("content")
        if isinstance(value, str):
            return value
    messages = row.get("messages")
    if isinstance(messages, list) and messages and messages[-1].get("role") == "assistant":
        return str(messages[-1].get("content") or "")
    return None


def answered(
    name: str, prompts: Sequence[Prompt], ledger: Ledger, max_tokens: int, temperature: float
) -> Side:
    asked = [Question(tuple(p.messages), max_tokens, temperature) for p in prompts]
    replies = ledger.ask(asked)
    ledger.require_all()
    pairs = zip(prompts, replies, strict=True)
    came = [(tuple(p.messages), reply.text) for p, reply in pairs if isinstance(reply, Reply)]
    return Side(name, {transcript(messages): (messages, text) for messages, text in came})


def play(sides: Sequence[Side], judge: Pairwise, limit: int = 0) -> Judged:
    """Every pair of sides on the prompts all of them answered (the first `limit` of them), in one batch."""
    shared = [key for key in sides[0].answers if all(key in side.answers for side in sides)]
    every = {key for side in sides for key in side.answers}
    if not shared:
        raise UserError(
            f"{', '.join(side.name for side in sides)} have no prompt in common; evaluate them on the same prompts"
        )
    kept = shared[:limit] if limit else shared
    matches = [(a, b, key) for a, b in combinations(sides, 2) for key in kept]
    found = judge.compare([Duel(a.answers[k][0], a.answers[k][1], b.answers[k][1]) for a, b, k in matches])
    judge.ledger.require_all()
    pairs = [(a.name, b.name) for a, b in combinations(sides, 2)]
    consistent, abstained = dict.fromkeys(pairs, 0), {pair: Counter[str]() for pair in pairs}
    games = []
    for (a, b, key), outcome in zip(matches, found, strict=True):
        pair = (a.name, b.name)
        if not isinstance(outcome, Preference):
            abstained[pair][outcome.reason] += 1
            continue
        consistent[pair] += outcome.consistent
        lengths = (float(len(a.answers[key][1])), float(len(b.answers[key][1])))
        games.append(Game(*pair, outcome.value, key, *lengths))
    return Judged(tuple(side.name for side in sides), games, consistent, abstained, len(every) - len(shared))


# ---- what it came to ----


@dataclass(frozen=True)
class Numbers:
    """Of one pair. What could not be computed is told instead."""

    pair: tuple[str, str]
    raw: Estimate | None
    controlled: LengthControlled | str


def numbers(judged: Judged) -> tuple[list[Numbers], dict[str, Estimate] | str]:
    """Each pair's win rates, of its first side, and everybody's Elo."""
    if not judged.games:
        reasons = sum(judged.abstained.values(), Counter[str]())
        told = "\n  ".join(f"{count:,}  {reason}" for reason, count in reasons.most_common(5))
        raise RunStopped(f"no duel has a verdict, so there is nothing to count:\n  {told}", 1)
    found = []
    for pair in combinations(judged.sides, 2):
        games = judged.of(pair)
        raw = win_rate(games, pair[0]) if games else None
        found.append(
            Numbers(pair, raw, told_or(length_controlled, games, pair[0]) if games else "no verdict")
        )
    return found, told_or(lambda: bradley_terry(judged.games).elo())


def told_or(compute: Callable[..., Any], *given: Any) -> Any:
    """The number, or in words why there is none: a table shows both."""
    try:
        return compute(*given)
    except UserError as error:
        return str(error)


def report(judged: Judged) -> str:
    each, elo = numbers(judged)
    rows = [
        [
            "first",
            "second",
            "win rate",
            "95 % interval",
            "at equal length",
            "95 % interval",
            "judged",
            "no verdict",
            "consistent",
        ]
    ]
    notes = []
    for one in each:
        first, second = one.pair
        judged_here, lost = len(judged.of(one.pair)), judged.abstained[one.pair].total()
        steady = f"{judged.consistent[one.pair] / judged_here:.0%}" if judged_here else "-"
        controlled = one.controlled.controlled if isinstance(one.controlled, LengthControlled) else None
        if isinstance(one.controlled, str):
            notes.append(f"at equal length, {first} against {second}: {one.controlled}")
        rows.append(
            [first, second, *cells(one.raw), *cells(controlled), f"{judged_here:,}", f"{lost:,}", steady]
        )
        notes += [
            f"no verdict, {first} against {second}: {n:,}  {r}"
            for r, n in judged.abstained[one.pair].most_common(3)
        ]
    parts = [aligned(rows)]
    if isinstance(elo, str):
        notes.append(f"Elo: {elo}")
    else:
        parts.append(
            aligned([["", "Elo", "95 % interval"], *([name, *cells(e, "{:.0f}")] for name, e in elo.items())])
        )
    if judged.unshared:
        notes.append(f"{judged.unshared:,} prompts were not answered by all and are left out")
    return "\n\n".join([*parts, "\n".join(notes)] if notes else parts)


def cells(estimate: Estimate | None, form: str = "{:.1%}") -> tuple[str, str]:
    if estimate is None:
        return "-", "-"
    return form.format(estimate.value), f"{form.format(estimate.low)} to {form.format(estimate.high)}"


def as_json(judged: Judged, judge: str) -> dict[str, Any]:
    each, elo = numbers(judged)
    return {
        "judge": judge,
        "sides": list(judged.sides),
        "pairs": [
            {
                "first": one.pair[0],
                "second": one.pair[1],
                "win_rate": vars(one.raw) if one.raw else None,
                "length_controlled": one.controlled
                if isinstance(one.controlled, str)
                else {name: vars(value) for name, value in vars(one.controlled).items()},
                "judged": len(judged.of(one.pair)),
                "consistent": judged.consistent[one.pair],
                "no_verdict": dict(judged.abstained[one.pair]),
            }
            for one in each
        ],
        "elo": elo if isinstance(elo, str) else {name: vars(value) for name, value in elo.items()},
        "unshared_prompts": judged.unshared,
    }


def game_lines(games: Sequence[Game]) -> str:
    return "".join(json.dumps(vars(game), ensure_ascii=False) + "\n" for game in games)
