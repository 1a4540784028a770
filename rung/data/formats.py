"""A raw row to one of the five kinds: recognise the form by its columns, translate, refuse what cannot train.

    chosen, rejected (prompt)        two answers, whole conversations or answers to `prompt`
    prompt, completion, label        one judged answer
    messages (tools)                 a chat
    conversations (system, tools)    ShareGPT, `from`/`value`
    prompt, completion               an answer
    instruction, output (input)      Alpaca, read as a chat of one question
    question, answer                 read as a chat of one question
    text                             plain text

The first form whose columns are all there is taken; other columns are kept in `extra`.
"""

from __future__ import annotations

import re
from typing import Any

from rung.data.messages import (
    from_dialogue,
    from_sharegpt,
    kind,
    parse_messages,
    parse_tools,
    refuse,
    says_something,
)
from rung.data.rows import (
    CompletionRow,
    ConversationRow,
    LabelRow,
    Messages,
    PreferenceRow,
    Row,
    Side,
    TextRow,
)
from rung.errors import UserError

FORMS = (
    "messages | conversations | prompt, completion | prompt, completion, label | "
    "chosen, rejected | instruction, output | question, answer | text"
)


def parse_row(row: dict[str, Any], origin: str) -> Row:
    """The row as training reads it, or a UserError that names file, row and key."""
    if not isinstance(row, dict):
        raise UserError(f"{origin}: the row is {kind(row)}; write an object with named columns.")
    have = {name for name, value in row.items() if value is not None}
    if have >= {"chosen", "rejected"}:
        return parse_preference(row, origin)
    if have >= {"prompt", "completion", "label"}:
        return parse_label(row, origin)
    if "messages" in have:
        return parse_conversation(
            row, parse_messages(row["messages"], origin, "messages"), origin, "messages"
        )
    if "conversations" in have:
        return parse_sharegpt(row, origin)
    if have >= {"prompt", "completion"}:
        return parse_completion(row, origin)
    if have >= {"instruction", "output"}:
        return parse_question(row, origin, ("instruction", "input"), "output")
    if have >= {"question", "answer"}:
        return parse_question(row, origin, ("question",), "answer")
    if "text" in have:
        text = parse_string(row, "text", origin)
        return TextRow(text, origin, others(row, "text"))
    columns = ", ".join(sorted(have)) or "none"
    raise UserError(f"{origin}: the columns ({columns}) are of no known form. Known forms: {FORMS}.")


def others(row: dict[str, Any], *used: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in used}


def parse_string(row: dict[str, Any], key: str, origin: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        refuse(origin, key, f"is {kind(value)}; write a string.")
    if not value:
        refuse(origin, key, "is empty; remove the row or fill it.")
    return value


def parse_conversation(row: dict[str, Any], messages: Messages, origin: str, *used: str) -> ConversationRow:
    turns = [message for message in messages if message["role"] == "assistant"]
    if not turns:
        refuse(origin, used[0], "has no assistant turn, so there is nothing to learn from; add one.")
    if not any(says_something(turn) for turn in turns):
        refuse(origin, used[0], "has only empty assistant turns; remove the row or fill one.")
    if all(turn.get("train") is False for turn in turns):
        refuse(origin, used[0], "trains no assistant turn (train: false on all); remove the row.")
    tools = parse_tools(row.get("tools"), origin)
    return ConversationRow(messages, origin, tools, others(row, *used, "tools"))


def parse_sharegpt(row: dict[str, Any], origin: str) -> ConversationRow:
    messages = from_sharegpt(row["conversations"], origin, "conversations")
    system = row.get("system")
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages = ({"role": "system", "content": system}, *messages)
    return parse_conversation(row, messages, origin, "conversations", "system")


def parse_question(row: dict[str, Any], origin: str, asked: tuple[str, ...], answer: str) -> ConversationRow:
    """One question and one answer in plain columns, as a chat: what they were written to teach."""
    question = [parse_string(row, asked[0], origin)]
    question += [parse_string(row, name, origin) for name in asked[1:] if row.get(name)]
    messages: Messages = (
        {"role": "user", "content": "\n\n".join(question)},
        {"role": "assistant", "content": parse_string(row, answer, origin)},
    )
    if isinstance(row.get("system"), str) and row["system"]:
        messages = ({"role": "system", "content": row["system"]}, *messages)
    return parse_conversation(row, messages, origin, *asked, answer, "system")


def parse_side(row: dict[str, Any], key: str, origin: str) -> Side:
    value = row[key]
    if isinstance(value, list):
        return parse_messages(value, origin, key)
    if not isinstance(value, str):
        refuse(origin, key, f"is {kind(value)}; write a string or a list of messages.")
    return parse_string(row, key, origin)


def parse_answer(prompt: Side, answer: Side, origin: str, key: str) -> tuple[Side, Side]:
    """Bring prompt and answer to the same kind (both strings or both messages) and check the answer."""
    if isinstance(answer, str) and isinstance(prompt, str):
        return prompt, answer
    if isinstance(prompt, str):
        prompt = ({"role": "user", "content": prompt},)
    if isinstance(answer, str):
        answer = ({"role": "assistant", "content": answer},)
    if not answer or answer[-1]["role"] != "assistant" or answer[0]["role"] != "assistant":
        refuse(origin, key, "must start and end with an assistant message.")
    if not says_something(answer[-1]):
        refuse(origin, key, "is an empty answer; remove the row or fill it.")
    return prompt, answer


def parse_completion(row: dict[str, Any], origin: str) -> CompletionRow:
    prompt, completion = parse_side(row, "prompt", origin), parse_side(row, "completion", origin)
    prompt, completion = parse_answer(prompt, completion, origin, "completion")
    tools = parse_tools(row.get("tools"), origin)
    return CompletionRow(prompt, completion, origin, tools, others(row, "prompt", "completion", "tools"))


def parse_label(row: dict[str, Any], origin: str) -> LabelRow:
    if not isinstance(row["label"], bool):
        refuse(origin, "label", f"is {row['label']!r}; write true for a good answer, false for a bad one.")
    answer = parse_completion(others(row, "label"), origin)
    return LabelRow(answer.prompt, answer.completion, row["label"], origin, answer.tools, answer.extra)


def parse_preference(row: dict[str, Any], origin: str) -> PreferenceRow:
    chosen, rejected = parse_sides(row, origin)
    if chosen == rejected:
        refuse(origin, "rejected", "equals chosen, so the row prefers nothing; remove it.")
    given = parse_side(row, "prompt", origin) if row.get("prompt") else None
    prompt, chosen, rejected = split_prompt(given, chosen, rejected, origin)
    _, chosen = parse_answer(prompt, chosen, origin, "chosen")
    prompt, rejected = parse_answer(prompt, rejected, origin, "rejected")
    tools = parse_tools(row.get("tools"), origin)
    extra = others(row, "prompt", "chosen", "rejected", "tools")
    return PreferenceRow(prompt, chosen, rejected, origin, tools, extra)


def parse_shared_prompt(row: dict[str, Any], origin: str) -> Side:
    """What the two answers of a pair reply to, whatever they are worth: one of them may be empty."""
    return split_prompt(None, *parse_sides(row, origin), origin)[0]


def parse_sides(row: dict[str, Any], origin: str) -> tuple[Side, Side]:
    """`chosen` and `rejected`, both text or both messages."""
    chosen, rejected = parse_side(row, "chosen", origin), parse_side(row, "rejected", origin)
    if isinstance(chosen, str) != isinstance(rejected, str):
        refuse(origin, "rejected", f"is {kind(row['rejected'])} but chosen is not; write both alike.")
    return chosen, rejected


def split_prompt(given: Side | None, chosen: Side, rejected: Side, origin: str) -> tuple[Side, Side, Side]:
    """The prompt both answers share: the given one, or what two whole conversations have in common."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        return split_strings(given, chosen, rejected, origin)
    assert not isinstance(chosen, str) and not isinstance(rejected, str)
    if given is not None and chosen[0]["role"] == rejected[0]["role"] == "assistant":
        return given, chosen, rejected
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if given is not None and not agrees(given, chosen[:shared]):
        refuse(origin, "prompt", "differs from how chosen and rejected begin; make the three agree.")
    if not shared:
        refuse(origin, "rejected", "does not begin as chosen does, so they answer different prompts.")
    if shared in (len(chosen), len(rejected)):
        shorter = "chosen" if shared == len(chosen) else "rejected"
        refuse(origin, shorter, "holds nothing that the other does not; each needs its own answer.")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def agrees(given: Side, shared: Messages) -> bool:
    if isinstance(given, str):
        return any(message["role"] == "user" and message["content"] == given for message in shared)
    return shared[: len(given)] == given


def split_strings(given: Side | None, chosen: str, rejected: str, origin: str) -> tuple[Side, Side, Side]:
    if isinstance(given, str) and chosen.startswith(given) and rejected.startswith(given):
        chosen, rejected = chosen[len(given) :], rejected[len(given) :]
        if not chosen or not rejected:
            refuse(origin, "rejected" if chosen else "chosen", "holds the prompt and no answer.")
    if given is not None:
        return given, chosen, rejected
    dialogues = from_dialogue(chosen), from_dialogue(rejected)
    if dialogues[0] and dialogues[1]:
        return split_prompt(None, dialogues[0], dialogues[1], origin)
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shared = chosen[: next((i for i, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))]
    # Words stay whole: the answers begin with the white space before the word in which they part.
    cut = len(re.sub(r"\s*\S*\Z", "", shared, count=1))
    if not cut:
        refuse(origin, "rejected", "shares no beginning with chosen; write the question as `prompt`.")
    return chosen[:cut], chosen[cut:], rejected[cut:]
