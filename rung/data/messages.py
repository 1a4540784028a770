"""Lists of messages: dialects translated, every message checked, errors that name the row and the key.

A message leaves here with a known `role`, a `content` that is a string, no null values, tool-call arguments
as objects (what templates expect), and `train: False` only on an assistant turn that is not to be trained.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from rung.data.rows import Message, Messages
from rung.errors import UserError

ROLES = ("system", "developer", "user", "assistant", "tool")

# ShareGPT's names for the speakers. `function_call` is an assistant turn and gets its own treatment.
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}

HUMAN_ASSISTANT = re.compile(r"\n\n(Human|Assistant):")


def refuse(origin: str, key: str, problem: str) -> NoReturn:
    raise UserError(f"{origin}: {key} {problem}")


def kind(value: Any) -> str:
    """A JSON type in words, for errors."""
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")


def without_null(value: Any) -> Any:
    """Parquet fills absent keys of a struct with null; a template must not see them."""
    if isinstance(value, dict):
        return {name: without_null(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_null(item) for item in value]
    return value


def parse_messages(value: Any, origin: str, key: str) -> Messages:
    if not isinstance(value, list):
        refuse(origin, key, f"is {kind(value)}; write a list of {{role, content}} messages.")
    if not value:
        refuse(origin, key, "is an empty list; a conversation needs at least one message.")
    return tuple(parse_message(message, origin, f"{key}[{i}]") for i, message in enumerate(value))


def parse_message(value: Any, origin: str, key: str) -> Message:
    if not isinstance(value, dict):
        refuse(origin, key, f"is {kind(value)}; write an object with role and content.")
    message = without_null(value)
    if message.get("role") not in ROLES:
        given = repr(message["role"]) if "role" in message else "missing"
        refuse(origin, f"{key}.role", f"is {given}; write one of {', '.join(ROLES)}.")
    if "tool_calls" in message:
        message["tool_calls"] = parse_tool_calls(message["tool_calls"], origin, f"{key}.tool_calls")
    if not message.get("tool_calls"):
        message.pop("tool_calls", None)
    if "content" not in message and message.get("tool_calls"):
        message["content"] = ""
    message["content"] = parse_content(message.get("content"), origin, f"{key}.content")
    return with_train_flag(message, origin, key)


def parse_content(value: Any, origin: str, key: str) -> str:
    """A string, or a list of `{type: text, text: ...}` parts, which are joined."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        refuse(origin, key, f"is {kind(value)}; write a string.")
    for i, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            given = f"of type {part['type']!r}" if isinstance(part, dict) and "type" in part else kind(part)
            refuse(origin, f"{key}[{i}]", f'is {given}; only {{"type": "text", "text": "..."}} is read.')
    return "".join(part["text"] for part in value)


def parse_tool_calls(value: Any, origin: str, key: str) -> list[dict]:
    """OpenAI stores arguments as a JSON string; templates print objects, so a string becomes one."""
    if not isinstance(value, list) or not all(isinstance(call, dict) for call in value):
        refuse(origin, key, "is not a list of objects; write [{type: function, function: {...}}].")
    return [
        {**call, "function": with_arguments(call["function"], origin, f"{key}[{i}].function")}
        if isinstance(call.get("function"), dict)
        else with_arguments(call, origin, f"{key}[{i}]")
        for i, call in enumerate(value)
    ]


def with_arguments(function: dict, origin: str, key: str) -> dict:
    if not isinstance(function.get("name"), str):
        refuse(origin, f"{key}.name", f"is {kind(function.get('name'))}; write the name of the tool.")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except json.JSONDecodeError as error:
            refuse(origin, f"{key}.arguments", f"is not JSON ({error}); write an object.")
    return {**function, "arguments": arguments}


def with_train_flag(message: Message, origin: str, key: str) -> Message:
    """`train: false` and OpenAI's `weight: 0` mean the same; both become `train: False` or disappear."""
    asked = "train" in message or "weight" in message
    train = message.pop("train", True)
    weight = message.pop("weight", 1)
    if not isinstance(train, bool):
        refuse(origin, f"{key}.train", f"is {kind(train)}; write true or false.")
    if weight not in (0, 1):
        refuse(origin, f"{key}.weight", f"is {weight!r}; a turn is trained (1) or not (0).")
    if message["role"] != "assistant":
        if asked and train and weight:
            refuse(
                origin, f"{key}.train", f"asks to train a {message['role']} turn; only assistant turns are."
            )
    elif not (train and weight):
        message["train"] = False
    return message


def parse_tools(value: Any, origin: str) -> tuple[dict, ...] | None:
    """The `tools` column: a list of JSON schemas, or that list as a JSON string (hub sets store it so)."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "null")
        except json.JSONDecodeError as error:
            refuse(origin, "tools", f"is a string that is not JSON ({error}); write a list of schemas.")
    value = without_null(value)
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        refuse(origin, "tools", f"is {kind(value)}; write a list of JSON schemas, one object per tool.")
    return tuple(value)


def from_sharegpt(value: Any, origin: str, key: str) -> Messages:
    """`{from, value}` turns; a list that already says role and content passes through."""
    if not isinstance(value, list):
        refuse(origin, key, f"is {kind(value)}; write a list of {{from, value}} turns.")
    if not any(isinstance(turn, dict) and "from" in turn for turn in value):
        return parse_messages(value, origin, key)
    messages = []
    for i, turn in enumerate(value):
        if not isinstance(turn, dict) or turn.get("from") not in SHAREGPT_ROLES:
            given = repr(turn.get("from")) if isinstance(turn, dict) else kind(turn)
            refuse(origin, f"{key}[{i}].from", f"is {given}; write one of {', '.join(SHAREGPT_ROLES)}.")
        if not isinstance(turn.get("value"), str):
            refuse(origin, f"{key}[{i}].value", f"is {kind(turn.get('value'))}; write a string.")
        kept = {name: turn[name] for name in ("train", "weight") if turn.get(name) is not None}
        messages.append({"role": SHAREGPT_ROLES[turn["from"]], "content": turn["value"], **kept})
        if turn["from"] == "function_call":
            messages[-1] |= {
                "content": "",
                "tool_calls": [sharegpt_call(turn["value"], origin, f"{key}[{i}]")],
            }
    return parse_messages(messages, origin, key)


def sharegpt_call(text: str, origin: str, key: str) -> dict:
    try:
        call = json.loads(text)
    except json.JSONDecodeError as error:
        refuse(origin, f"{key}.value", f"is a function call that is not JSON ({error}).")
    if not isinstance(call, dict):
        refuse(origin, f"{key}.value", 'is a function call; write {"name": ..., "arguments": {...}}.')
    return {"type": "function", "function": call}


def from_dialogue(text: str) -> Messages | None:
    """Anthropic's transcripts, `\\n\\nHuman: ...\\n\\nAssistant: ...`; None for any other text."""
    before, *rest = HUMAN_ASSISTANT.split(text)
    if before.strip() or not rest:
        return None
    names = {"Human": "user", "Assistant": "assistant"}
    return tuple(
        {"role": names[speaker], "content": words.strip()}
        for speaker, words in zip(rest[::2], rest[1::2], strict=True)
    )


def says_something(message: Message) -> bool:
    """Whether an assistant turn holds anything besides its terminator."""
    return any(message.get(name) for name in ("content", "tool_calls", "reasoning_content", "thinking"))
