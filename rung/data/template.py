"""Chat templates to tokens and masks, for any template, by growing prefixes in token space.

For every trained turn there are two texts (see `turns`): the prompt a sampler would feed, and the
conversation up to the answer. Both are tokenised whole. The prompt's tokens must be the first tokens of the
conversation's: then everything after them, up to the terminator, was written by the model and is trained,
and nothing else is.

Turns share a row when one row's tokens begin exactly as the other's up to its terminator. Where they do not,
because the template rewrites history (Qwen3 drops earlier reasoning), the conversation forks: one row per
context, so that each turn is trained once, in the context a model would really see.

When a token straddles the end of the prompt (an answer that begins with blank lines, say), the sampler could
never have produced it. The row then holds the prompt's own tokens and, after them, the answer's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase as Tokenizer

from rung.data.rows import ConversationRow, HistoryThinking
from rung.data.tokens import TokenPolicy, decode, encode_chats, encode_continuations, token_policy
from rung.data.turns import Turn, trained_turns
from rung.errors import UserError


@dataclass(frozen=True)
class Rendered:
    token_ids: np.ndarray  # int32 [T]
    trained: np.ndarray  # bool  [T]


def render(
    conversation: ConversationRow,
    tokenizer: Tokenizer,
    *,
    history_thinking: HistoryThinking = "template",
    policy: TokenPolicy | None = None,
) -> list[Rendered]:
    """The rows of one conversation: a single one, or several where the template rewrites history."""
    policy = policy or token_policy(tokenizer)
    [rows] = render_many([conversation], tokenizer, history_thinking=history_thinking, policy=policy)
    if isinstance(rows, UserError):
        raise rows
    return rows


def render_many(
    conversations: Iterable[ConversationRow],
    tokenizer: Tokenizer,
    *,
    history_thinking: HistoryThinking,
    policy: TokenPolicy,
) -> list[list[Rendered] | UserError]:
    """Like `render`, tokenising everything in one call; what fails stands in its place as the error."""
    conversations = list(conversations)
    planned = [plan(conversation, tokenizer, history_thinking) for conversation in conversations]
    texts = dict.fromkeys(
        text
        for turns in planned
        if not isinstance(turns, UserError)
        for turn in turns
        for text in (turn.prompt, turn.text)
    )
    ids_of = dict(zip(texts, encode_chats(tokenizer, list(texts)), strict=True))
    return [
        turns
        if isinstance(turns, UserError)
        else assemble(turns, ids_of, tokenizer, policy, conversation.origin)
        for conversation, turns in zip(conversations, planned, strict=True)
    ]


def plan(
    conversation: ConversationRow, tokenizer: Tokenizer, history_thinking: HistoryThinking
) -> list[Turn] | UserError:
    try:
        return trained_turns(conversation, tokenizer, history_thinking)
    except UserError as error:
        return error


def assemble(
    turns: Sequence[Turn],
    ids_of: dict[str, list[int]],
    tokenizer: Tokenizer,
    policy: TokenPolicy,
    origin: str,
) -> list[Rendered] | UserError:
    """Longest context first: each turn joins the first row that begins as it does, or opens its own."""
    rows: list[tuple[list[int], np.ndarray]] = []
    try:
        for turn in reversed(turns):
            ids, start, end = spans(turn, ids_of, tokenizer, policy, origin)
            row = next((row for row in rows if row[0][:end] == ids[:end]), None)
            if row is None:
                policy.check_beginning(ids, policy.chat_has_bos, origin)
                row = (ids, np.zeros(len(ids), dtype=bool))
                rows.append(row)
            row[1][start:end] = True
    except UserError as error:
        return error
    return [Rendered(np.array(ids, dtype=np.int32), trained) for ids, trained in reversed(rows)]


def spans(
    turn: Turn, ids_of: dict[str, list[int]], tokenizer: Tokenizer, policy: TokenPolicy, origin: str
) -> tuple[list[int], int, int]:
    """The turn's tokens, where its answer starts and where it ends, terminator included."""
    prompt, ids = ids_of[turn.prompt], ids_of[turn.text]
    if ids[: len(prompt)] != prompt:
        ids = joined(turn, prompt, ids, tokenizer, origin)
    return ids, len(prompt), end_of_turn(ids, len(prompt), tokenizer, policy, origin)


def joined(turn: Turn, prompt: list[int], whole: list[int], tokenizer: Tokenizer, origin: str) -> list[int]:
    """Prompt and answer tokenised apart, proven to be the same text as the two together."""
    [answer] = encode_continuations(tokenizer, [turn.text[len(turn.prompt) :]])
    if decode(tokenizer, prompt + answer) != decode(tokenizer, whole):
        raise UserError(
            f"{origin}: cannot be masked: a token straddles the end of the prompt {turn.prompt[-30:]!r} and "
            "the tokenizer cannot split it there. Remove white space at the start of the answer."
        )
    return prompt + answer


def end_of_turn(ids: list[int], start: int, tokenizer: Tokenizer, policy: TokenPolicy, origin: str) -> int:
    """One past the terminator: the first stop token among the special tokens and white space at the end."""
    structural = policy.special_ids.union(policy.stop_ids)
    tail = len(ids)
    while tail > start and (
        ids[tail - 1] in structural or not decode(tokenizer, ids[tail - 1 : tail]).strip()
    ):
        tail -= 1
    for wanted in (policy.stop_ids, policy.special_ids):
        for position in range(tail, len(ids)):
            if ids[position] in wanted:
                return position + 1
    raise UserError(
        f"{origin}: cannot be masked: the chat template ends an assistant turn with "
        f"{decode(tokenizer, ids[start:])[-30:]!r}, without any stop token, so the model could not learn to "
        "stop. Write {{ eos_token }} after the assistant's content in the template."
    )
