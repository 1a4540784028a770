"""The three kinds of signal in a row: a demonstration, a preference, a judged answer.

A kind says which documents a row holds and what their examples become. It refuses rows that do not hold its
signal; a demonstration can be made of any row, of a preference the chosen answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from rung.batch import Example, Feedback, Pair
from rung.data.documents import Document, answer_document, document_of
from rung.data.rows import LabelRow, PreferenceRow, Row
from rung.data.truncate import Dropped
from rung.errors import UserError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Kind(Generic[Item]):
    """What a row must hold (`documents`) and what the examples of each document become (`build`)."""

    name: str
    documents: Callable[[Row], list[Document] | Dropped]
    build: Callable[[Row, list[list[Example]]], list[Item]]
    examples: Callable[[Item], list[Example]]
    rebuild: Callable[[Item, list[Example]], Item]


def demonstrated(row: Row) -> list[Document] | Dropped:
    if isinstance(row, PreferenceRow):
        return [answer_document(row.prompt, row.chosen, row.origin, row.tools)]
    if isinstance(row, LabelRow) and not row.label:
        return Dropped("labelled as a bad answer")
    return [document_of(row)]


def compared(row: Row) -> list[Document]:
    if not isinstance(row, PreferenceRow):
        raise UserError(f"{row.origin}: the row is not a preference; write the columns chosen and rejected.")
    return [answer_document(row.prompt, side, row.origin, row.tools) for side in (row.chosen, row.rejected)]


def judged(row: Row) -> list[Document]:
    if not isinstance(row, LabelRow):
        raise UserError(
            f"{row.origin}: the row is no judged answer; write the columns prompt, completion, label."
        )
    return [document_of(row)]


def pair(row: Row, examples: list[list[Example]]) -> list[Pair]:
    [chosen], [rejected] = (one_context(row, side) for side in examples)
    start = int(chosen.trained.argmax())
    same = np.array_equal(chosen.token_ids[:start], rejected.token_ids[:start])
    if start != int(rejected.trained.argmax()) or not same:
        raise UserError(
            f"{row.origin}: chosen and rejected do not begin with the same prompt tokens. With a thinking "
            "template, give both answers reasoning or neither."
        )
    return [Pair(chosen, rejected)]


def one_context(row: Row, examples: list[Example]) -> list[Example]:
    if len(examples) > 1:
        raise UserError(
            f"{row.origin}: the chat template rewrites earlier turns of this answer, so its turns have no "
            "common context to compare. Use answers of one turn, or history_thinking=keep."
        )
    return examples


def feedback(row: Row, examples: list[list[Example]]) -> list[Feedback]:
    assert isinstance(row, LabelRow)
    [example] = one_context(row, examples[0])
    return [Feedback(example, row.label)]


DEMONSTRATIONS: Kind[Example] = Kind(
    name="sft",
    documents=demonstrated,
    build=lambda row, examples: [one for of_document in examples for one in of_document],
    examples=lambda example: [example],
    rebuild=lambda example, fitted: fitted[0],
)
PREFERENCES: Kind[Pair] = Kind(
    name="pairs",
    documents=compared,
    build=pair,
    examples=lambda item: [item.chosen, item.rejected],
    rebuild=lambda item, fitted: Pair(*fitted),
)
FEEDBACK: Kind[Feedback] = Kind(
    name="feedback",
    documents=judged,
    build=feedback,
    examples=lambda item: [item.example],
    rebuild=lambda item, fitted: Feedback(fitted[0], item.label),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in (DEMONSTRATIONS, PREFERENCES, FEEDBACK)}


def natural_kind(row: Row) -> Kind:
    """The signal a row was written for."""
    if isinstance(row, PreferenceRow):
        return PREFERENCES
    return FEEDBACK if isinstance(row, LabelRow) else DEMONSTRATIONS
