"""Tool calls in a model's text, as the two common families of chat templates teach them.

    Hermes, Qwen    <tool_call>{"name": "calculator", "arguments": {"expression": "2+2"}}</tool_call>, any number
    Llama 3         {"name": "calculator", "parameters": {"expression": "2+2"}} and nothing else, or several
                    parted by ; , behind <|python_tag|> or not

What cannot be read becomes a Broken with a sentence for the model, never an exception: the text is a model's.
What stands inside <think> is thought, not called.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
PYTHON_TAG = "<|python_tag|>"
# How a call without a tag looks; {"name": "Ada"} alone is an answer.
BARE = re.compile(r'\{\s*"(?:name|type|function)"\s*:.*"(?:parameters|arguments)"\s*:', re.DOTALL)


@dataclass(frozen=True)
class Call:
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Broken:
    problem: str  # a sentence to the model


@dataclass(frozen=True)
class Turn:
    """A model's turn: what it said beside its calls, and the calls in order."""

    text: str
    calls: tuple[Call | Broken, ...]


def parse(text: str) -> Turn:
    spoken = THOUGHT.sub("", text)
    _, end, after = spoken.rpartition("</think>")  # the template may have opened the thought in the prompt
    spoken = after if end else spoken
    if "<tool_call>" in spoken:
        return Turn(TAGGED.sub("", spoken).strip(), tuple(read(body) for body in TAGGED.findall(spoken)))
    before, tag, body = spoken.partition(PYTHON_TAG)
    body = body if tag else spoken
    body = re.sub(r"<\|eo[mt]_id\|>\s*$", "", body).strip()
    if tag or BARE.match(body):
        return Turn(before.strip() if tag else "", bare_calls(body))
    return Turn(spoken.strip(), ())


def bare_calls(body: str) -> tuple[Call | Broken, ...]:
    """One JSON object after the other, parted by semicolons."""
    decoder, rest = json.JSONDecoder(), body
    calls: list[Call | Broken] = []
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            return (*calls, Broken(NOT_JSON))
        calls.append(call_of(value))
        rest = rest[end:].lstrip().removeprefix(";").lstrip()
        if rest and not rest.startswith("{"):
            return (*calls, Broken("There is text behind the tool call. Write the call alone."))
    return tuple(calls) or (Broken(NOT_JSON),)


NOT_JSON = 'The tool call is not valid JSON. Write {"name": ..., "arguments": {...}}.'


def read(body: str) -> Call | Broken:
    try:
        return call_of(json.loads(body))
    except (ValueError, RecursionError):  # numbers too long for Python and brackets too deep, too
        return Broken(NOT_JSON)


def call_of(value: Any) -> Call | Broken:
    """`{"name", "arguments"}`, Llama's `parameters`, or OpenAI's `{"function": {...}}`."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name", value.get("function")) if isinstance(value, dict) else None
    if not isinstance(name, str):
        return Broken('The tool call has no "name". Write {"name": ..., "arguments": {...}}.')
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # OpenAI's form: the arguments are JSON inside a string
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return Broken(
                f'The arguments of {name} are not valid JSON. Write {{"name": ..., "arguments": {{...}}}}.'
            )
    if not isinstance(arguments, dict):
        return Broken(f"The arguments of {name} must be a JSON object with named values.")
    return Call(name, arguments)
