"""The five kinds of row that training can read, after every alias and dialect has been translated.

A side of a row (prompt, completion, chosen, rejected) is either a string, used without a chat template,
or a tuple of messages, rendered by the model's template. Columns that are not part of the form stay in
`extra`, because rewards and filters read them later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Message = dict[str, Any]
Messages = tuple[Message, ...]
Side = str | Messages

HistoryThinking = Literal["template", "keep", "strip"]  # see rung.data.turns
Overlong = Literal["drop", "truncate"]  # see rung.data.truncate


@dataclass(frozen=True)
class ConversationRow:
    """A chat; every assistant turn is trained unless its message says `train: false`."""

    messages: Messages
    origin: str
    tools: tuple[dict, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CompletionRow:
    """A prompt and the text that answers it; only the answer is trained."""

    prompt: Side
    completion: Side
    origin: str
    tools: tuple[dict, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TextRow:
    """Plain text, all of it trained."""

    text: str
    origin: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PreferenceRow:
    """Two answers to one prompt, the first preferred."""

    prompt: Side
    chosen: Side
    rejected: Side
    origin: str
    tools: tuple[dict, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelRow:
    """One answer with a thumb up (True) or down (False)."""

    prompt: Side
    completion: Side
    label: bool
    origin: str
    tools: tuple[dict, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


Row = ConversationRow | CompletionRow | TextRow | PreferenceRow | LabelRow
