"""A conversation as text: for every trained turn, what the model is given and what it must then write.

Turn i is rendered twice: the messages before it with the generation prompt (what a sampler would feed the
model), and the messages up to and with it. Nothing is assumed of the template but that the first text is the
beginning of the second. Where several generation prompts exist (thinking switched on or off), the longest
that fits is the one the answer was written after: an empty `<think>` block that the switch injects is never
trained.

`history_thinking` says what later turns see of the reasoning of earlier ones:

    template   whatever the template does
    strip      `<think>...</think>` of earlier turns is removed before rendering
    keep       later turns see earlier ones as they were written, also where the template would cut them
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import jinja2
from transformers import PreTrainedTokenizerBase as Tokenizer

from rung.data.rows import ConversationRow, HistoryThinking, Message
from rung.errors import UserError

THINKING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
THINKING_KEYS = ("reasoning_content", "thinking", "reasoning")
SENTINEL = "a sentinel that no conversation holds \u2e3b"


@dataclass(frozen=True)
class Turn:
    """`text` begins with `prompt`; the answer, its terminator and perhaps white space follow."""

    prompt: str
    text: str


def trained_turns(
    conversation: ConversationRow, tokenizer: Tokenizer, history_thinking: HistoryThinking
) -> list[Turn]:
    """One entry per trained assistant turn, in order. A turn that opens a conversation answers nothing."""
    if history_thinking not in get_args(HistoryThinking):
        raise UserError(f"history_thinking is {history_thinking!r}; write template, keep or strip.")
    if not tokenizer.chat_template:
        raise UserError(
            f"{conversation.origin}: the row is a chat and the tokenizer has no chat template. Use a model "
            "with one, or write the row as strings under prompt and completion, or as text."
        )
    answers = [i for i, m in enumerate(conversation.messages) if i and m["role"] == "assistant"]
    trained = [i for i in answers if conversation.messages[i].get("train", True)]
    if not trained:
        raise UserError(
            f"{conversation.origin}: no assistant turn answers anything (an opening one is only context); "
            "put a user message before it."
        )
    renderer = Renderer(conversation, tokenizer)
    if history_thinking == "keep":
        kept = renderer.append_only(answers)
        return [kept[i] for i in trained]
    return [renderer.turn(i, strip=history_thinking == "strip") for i in trained]


@dataclass(frozen=True)
class Renderer:
    """Renders beginnings of one conversation."""

    conversation: ConversationRow
    tokenizer: Tokenizer

    def turn(self, index: int, strip: bool = False) -> Turn:
        messages = list(self.conversation.messages[: index + 1])
        if strip:
            messages[:-1] = [without_thinking(message) for message in messages[:-1]]
        text = self.text(messages)
        prompts = [self.text(messages[:-1], add_generation_prompt=True)]
        if "enable_thinking" in str(self.tokenizer.chat_template):
            prompts.append(self.text(messages[:-1], add_generation_prompt=True, enable_thinking=False))
        fitting = [prompt for prompt in prompts if text.startswith(prompt)]
        if not fitting:
            raise UserError(self.why_no_prompt_fits(index, prompts[0], text))
        turn = Turn(max(fitting, key=len), text)
        self.refuse_deletions(index, turn)
        return turn

    def refuse_deletions(self, index: int, turn: Turn) -> None:
        """A template that leaves out what it does not know, tools or reasoning, teaches something else."""
        message = self.conversation.messages[index]
        answer = squeezed(turn.text[len(turn.prompt) :])
        calls = [call.get("function", call)["name"] for call in message.get("tool_calls", ())]
        # The generation prompt may have written the opening tag.
        parts = {"content": message["content"].lstrip().removeprefix("<think>")}
        parts |= {name: message[name] for name in THINKING_KEYS if isinstance(message.get(name), str)}
        missing = [
            f"messages[{index}].{name}" for name, part in parts.items() if squeezed(part) not in answer
        ]
        missing += [f"messages[{index}].tool_calls" for name in calls if squeezed(name) not in answer]
        tools = [tool.get("function", tool).get("name", "") for tool in self.conversation.tools or ()]
        missing += ["tools" for name in tools if name not in turn.text]
        if missing:
            raise UserError(
                f"{self.conversation.origin}: the chat template does not render {missing[0]} in full, so "
                "the model would learn something else than the row says. Use a model whose template supports "
                "it, or move it into content."
            )

    def append_only(self, answers: Sequence[int]) -> dict[int, Turn]:
        """Every turn after the exact text of the one before, and the template's text in between."""
        kept: dict[int, Turn] = {}
        for before, index in zip([None, *answers], answers, strict=False):
            turn = self.turn(index)
            if before is not None:
                # The turn's own prompt may carry more than the bare one (an empty think block): keep that.
                bare = self.text(self.conversation.messages[:index], add_generation_prompt=True)
                opener = turn.prompt[len(bare) :] if turn.prompt.startswith(bare) else ""
                prompt = self.continued(kept[before].text, before, index) + opener
                turn = Turn(prompt, prompt + turn.text[len(turn.prompt) :])
            kept[index] = turn
        return kept

    def continued(self, text: str, before: int, index: int) -> str:
        """The prompt for the answer at `index`, after `text`, which ends with the answer at `before`.

        What the template writes after the earlier answer is found by putting a sentinel in its place, so
        that it does not matter what the template does to that answer.
        """
        messages = list(self.conversation.messages[:index])
        messages[before] = {"role": "assistant", "content": SENTINEL}
        _, _, closing = self.text(messages[: before + 1]).rpartition(SENTINEL)
        _, found, following = self.text(messages, add_generation_prompt=True).rpartition(SENTINEL)
        if not found or not text.endswith(closing):
            raise UserError(
                f"{self.conversation.origin}: messages[{before}] cannot be kept as it was written, because "
                "the chat template closes it in a way of its own; use history_thinking=template."
            )
        return text.removesuffix(closing) + following

    def text(self, messages: Sequence[Message], **settings) -> str:
        plain = [{name: value for name, value in m.items() if name != "train"} for m in messages]
        tools: list[Any] | None = list(self.conversation.tools) if self.conversation.tools else None
        try:  # the template is the user's code
            return str(self.tokenizer.apply_chat_template(plain, tools=tools, tokenize=False, **settings))
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"{self.conversation.origin}: the chat template refuses messages with roles ({roles}): "
                f"{error}. Change the row, or use a model whose template supports it."
            ) from error

    def why_no_prompt_fits(self, index: int, prompt: str, text: str) -> str:
        same = next((i for i, (a, b) in enumerate(zip(prompt, text, strict=False)) if a != b), len(text))
        return (
            f"{self.conversation.origin}: messages[{index}] cannot be masked: the chat template prompts the "
            f"model with ...{prompt[max(0, same - 20) :][-60:]!r} but renders the answered conversation as "
            f"...{text[max(0, same - 20) : same + 40]!r}, which does not begin so. A template must "
            "render the answer after its own generation prompt; templates that delete the reasoning of the "
            "last answer do not, so change the template or remove the reasoning."
        )


def squeezed(text: str) -> str:
    """Without white space, which templates trim and add as they like."""
    return "".join(text.split())


def without_thinking(message: Message) -> Message:
    if message["role"] != "assistant":
        return message
    shown = {name: value for name, value in message.items() if name not in THINKING_KEYS}
    return {**shown, "content": THINKING.sub("", message["content"])}
