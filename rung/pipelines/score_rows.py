"""Rows of a file through a reward model, some hundred at a time; a row that cannot be scored says why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rung.data.files import scan
from rung.data.formats import parse_row
from rung.data.rows import CompletionRow, ConversationRow, LabelRow, PreferenceRow, Row, Side
from rung.errors import UserError
from rung.pipelines.scoring import Scorer
from rung.rewards.score import Abstain, Failure, Score

CHUNK = 256  # rows whose answers are batched together
WRITTEN = ("score", "chosen_score", "rejected_score", "unscored")


@dataclass(frozen=True)
class ScoredRow:
    row: dict[str, Any]
    pair: bool = False
    scores: tuple[float, ...] = ()  # one, or chosen and rejected
    lengths: tuple[int, int] = (0, 0)  # characters of both answers of a pair
    unscored: str = ""  # why there is none
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def rank(self) -> float | None:
        """What rows are compared by."""
        if not self.scores:
            return None
        return self.scores[0] - self.scores[1] if self.pair else self.scores[0]

    def written(self) -> dict[str, Any]:
        if self.unscored:
            return {**self.row, "score": None, "unscored": self.unscored}
        names = ("chosen_score", "rejected_score") if self.pair else ("score",)
        return {**self.row, **dict(zip(names, self.scores, strict=True)), **self.parts}


def score_file(spec: str, scorer: Scorer) -> Iterator[ScoredRow]:
    """Every row of the file in order. Raises UserError where a row holds scores already."""
    source = scan(spec)
    while chunk := list(islice(source, CHUNK)):
        wanted = [answers_of(raw, origin, scorer) for raw, origin in chunk]
        asked = [one for part in wanted if not isinstance(part, str) for one in part]
        verdicts = iter(scorer.verdicts(asked))
        for (raw, _), part in zip(chunk, wanted, strict=True):
            row = raw if isinstance(raw, dict) else {}
            if isinstance(part, str):
                yield ScoredRow(row, unscored=part)
                continue
            found = [next(verdicts) for _ in part]
            yield made(row, part, found)


def made(row: dict[str, Any], answered: list[tuple[Side, Side]], found: list[Any]) -> ScoredRow:
    pair = len(answered) == 2
    for verdict in found:
        if isinstance(verdict, Abstain | Failure):
            why = verdict.reason if isinstance(verdict, Abstain) else verdict.detail
            return ScoredRow(row, pair, unscored=why)
    scores = [verdict for verdict in found if isinstance(verdict, Score)]
    lengths = (size(answered[0][1]), size(answered[-1][1]))
    parts = dict(scores[0].parts) if not pair else {}
    return ScoredRow(row, pair, tuple(score.value for score in scores), lengths, parts=parts)


def answers_of(raw: Any, origin: str, scorer: Scorer) -> list[tuple[Side, Side]] | str:
    """The prompts and answers of a row, or what is wrong with it."""
    if isinstance(raw, UserError):
        return str(raw)
    there = [name for name in WRITTEN if name in raw]
    if there:
        raise UserError(
            f"{origin}: has a column {there[0]!r} already, and scores are never written over. Rename the column."
        )
    try:
        row = parse_row(raw, origin)
    except UserError as error:
        return str(error)
    sides = sides_of(row)
    if isinstance(sides, list) and not isinstance(sides[0][1], str):
        scorer.require_chats()
    return sides


def sides_of(row: Row) -> list[tuple[Side, Side]] | str:
    if isinstance(row, PreferenceRow):
        return [(row.prompt, row.chosen), (row.prompt, row.rejected)]
    if isinstance(row, CompletionRow | LabelRow):
        return [(row.prompt, row.completion)]
    if isinstance(row, ConversationRow):
        if row.messages[-1]["role"] != "assistant":
            return f"{row.origin}: the conversation does not end in an answer"
        return [(row.messages[:-1], row.messages[-1:])]
    return f"{row.origin}: plain text has no prompt and no answer to score"


def size(answer: Side) -> int:
    return len(answer) if isinstance(answer, str) else sum(len(str(m.get("content") or "")) for m in answer)
