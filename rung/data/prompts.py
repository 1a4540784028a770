"""Prompts out of rows of any form: what was asked, without what was answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rung.data.files import read_rows
from rung.data.formats import parse_shared_prompt, parse_string
from rung.data.messages import Messages, from_dialogue, parse_messages
from rung.errors import UserError


@dataclass(frozen=True)
class Prompt:
    messages: Messages  # ends with a user's turn
    origin: str
    row: dict[str, Any]


def read_prompts(spec: str, limit: int = 0) -> list[Prompt]:
    """One a row: `prompt` (text or messages), `messages` up to its last question, the shared beginning of `chosen` and
    `rejected`, `instruction`, or `question`. With a limit, the first so many."""
    found: list[Prompt] = []
    for row, origin in read_rows(spec):
        messages = prompt_of(row, origin)
        if not messages or messages[-1]["role"] == "assistant":
            raise UserError(f"{origin}: the prompt does not end with a question; end it with a user's turn.")
        found.append(Prompt(messages, origin, row))
        if limit and len(found) == limit:
            break
    return found


def prompt_of(row: dict[str, Any], origin: str) -> Messages:
    if row.get("prompt"):
        value: Any = row["prompt"]
        return as_question(value) if isinstance(value, str) else parse_messages(value, origin, "prompt")
    if row.get("messages"):
        messages = parse_messages(row["messages"], origin, "messages")
        while messages and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        return messages
    if row.get("chosen") and row.get("rejected"):
        prompt = parse_shared_prompt(row, origin)
        return as_question(prompt) if isinstance(prompt, str) else prompt
    if row.get("instruction"):
        more = row.get("input")
        return as_question(parse_string(row, "instruction", origin) + (f"\n\n{more}" if more else ""))
    if row.get("question"):
        return as_question(parse_string(row, "question", origin))
    raise UserError(
        f"{origin}: no prompt in the columns {', '.join(sorted(row)) or 'none'}; write prompt, messages, instruction, "
        "question, or chosen and rejected."
    )


def as_question(text: str) -> Messages:
    """Text as a user's turn; a transcript of Human and Assistant as its turns."""
    return from_dialogue(text) or ({"role": "user", "content": text},)
