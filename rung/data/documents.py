"""Parsed rows to examples: chats through the template, strings without it.

A document is what becomes one sequence: a chat, a prompt with its completion, or a text. A string prompt and
its completion are tokenised apart, so that the boundary is exact and the prompt's tokens are the same for
every completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase as Tokenizer

from rung.batch import Example
from rung.data.rows import CompletionRow, ConversationRow, HistoryThinking, LabelRow, Messages, Side, TextRow
from rung.data.template import render_many
from rung.data.tokens import TokenPolicy, encode, encode_continuations
from rung.errors import UserError

Document = ConversationRow | CompletionRow | TextRow


@dataclass(frozen=True)
class Encoder:
    """A tokenizer with the decisions about it."""

    tokenizer: Tokenizer
    policy: TokenPolicy
    history_thinking: HistoryThinking = "template"

    def examples(self, documents: Sequence[Document]) -> list[list[Example] | UserError]:
        """For each document its examples (several where history forks) or what is wrong with it."""
        made = {
            ConversationRow: iter(self.chats([d for d in documents if isinstance(d, ConversationRow)])),
            CompletionRow: iter(self.completions([d for d in documents if isinstance(d, CompletionRow)])),
            TextRow: iter(self.texts([d for d in documents if isinstance(d, TextRow)])),
        }
        return [next(made[type(document)]) for document in documents]

    def chats(self, rows: Sequence[ConversationRow]) -> list[list[Example] | UserError]:
        rendered = render_many(
            rows, self.tokenizer, history_thinking=self.history_thinking, policy=self.policy
        )
        return [
            result
            if isinstance(result, UserError)
            else checked([Example(one.token_ids, one.trained, row.origin) for one in result])
            for row, result in zip(rows, rendered, strict=True)
        ]

    def completions(self, rows: Sequence[CompletionRow]) -> list[list[Example] | UserError]:
        prompts = encode(self.tokenizer, [str(row.prompt) for row in rows])
        answers = encode_continuations(self.tokenizer, [str(row.completion) for row in rows])
        return [
            self.attempt(row.origin, self.policy.begin(prompt), answer)
            for row, prompt, answer in zip(rows, prompts, answers, strict=True)
        ]

    def texts(self, rows: Sequence[TextRow]) -> list[list[Example] | UserError]:
        encoded = encode(self.tokenizer, [row.text for row in rows])
        return [
            self.attempt(row.origin, [], self.policy.begin(ids), plain=True)
            for row, ids in zip(rows, encoded, strict=True)
        ]

    def attempt(
        self, origin: str, prompt: list[int], answer: list[int], plain: bool = False
    ) -> list[Example] | UserError:
        """Untrained prompt, trained answer, one terminator."""
        try:
            ids = [*prompt, *self.policy.end(answer, origin)]
            self.policy.check_beginning(ids, self.policy.text_has_bos, origin)
        except UserError as error:
            return error
        trained = np.arange(len(ids)) >= (1 if plain else len(prompt))  # nothing predicts a first token
        example = Example(np.array(ids, dtype=np.int32), trained, origin)
        return [example] if plain else checked([example])


def checked(examples: list[Example]) -> list[Example] | UserError:
    """A chat or a prompted answer trains some of its tokens, never none or all."""
    for example in examples:
        share = example.trained.mean()
        if share in (0.0, 1.0):
            return UserError(
                f"{example.origin}: {share:.0%} of the tokens would be trained, so prompt and answer were "
                "not told apart. `rung data show` prints the mask. Check the chat template, or write "
                "the row as text."
            )
    return examples


def answer_document(
    prompt: Side, answer: Side, origin: str, tools: tuple[dict, ...] | None = None
) -> Document:
    """One prompted answer; assistant turns that are part of the prompt are not trained."""
    if isinstance(prompt, str) or isinstance(answer, str):
        return CompletionRow(prompt, answer, origin)
    before: Messages = tuple(
        {**message, "train": False} if message["role"] == "assistant" else message for message in prompt
    )
    return ConversationRow((*before, *answer), origin, tools)


def document_of(row: ConversationRow | CompletionRow | TextRow | LabelRow) -> Document:
    if isinstance(row, (CompletionRow, LabelRow)):
        return answer_document(row.prompt, row.completion, row.origin, row.tools)
    return row
