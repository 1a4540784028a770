"""`rung generate MODEL`: answers to prompts from the command line or a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import tyro

from rung.errors import UserError

if TYPE_CHECKING:
    from rung.data.tokens import TokenPolicy

Prompt = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Generate:
    """Complete prompts. One prompt prints its answer; a file of prompts prints one JSON object a line."""

    model: tyro.conf.Positional[str]
    """A known name, a Hugging Face id, a folder, a run folder or a .gguf file."""
    prompt: tuple[str, ...] = ()
    """Prompts as they stand."""
    file: str = ""
    """A JSONL or Parquet file whose rows have `prompt` (text or messages) or `messages`."""
    chat: bool = True
    """Put text prompts through the chat template as a user's turn; off, continue the plain text."""
    max_new_tokens: int = 256
    """Longest answer in tokens."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this much probability."""
    stop: tuple[int, ...] = ()
    """Token ids that end an answer, besides the model's own."""
    batch: int = 32
    """Prompts sampled together."""
    seed: int = 0
    """Everything random."""


def main(settings: Generate) -> int:
    rows = read_prompts(settings)
    import torch

    from rung.data.tokens import token_policy
    from rung.models.folder import read_generation_config
    from rung.models.hub import load_tokenizer, resolve
    from rung.models.load import load_model
    from rung.rollouts.generate import Sampling, check, generate

    tokenizer = load_tokenizer(settings.model)
    policy = token_policy(tokenizer, read_generation_config(resolve(settings.model)))
    prompts = [prompt_ids(row, tokenizer, policy, settings.model) for row in rows]
    model = load_model(settings.model, torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    sampling = Sampling(
        settings.max_new_tokens,
        settings.temperature,
        settings.top_p,
        (*policy.stop_ids, *settings.stop),
        settings.seed,
    )
    check(model, prompts, sampling)  # all of them, before the first answer is printed
    alone = len(rows) == 1 and not settings.file
    for start in range(0, len(rows), settings.batch):
        part = slice(start, start + settings.batch)
        own = replace(sampling, seed=settings.seed + start)  # or each batch would repeat the first one's dice
        for row, ids in zip(rows[part], generate(model, prompts[part], own), strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True)
            line = {"prompt": row, "completion": text}
            print(text if alone else json.dumps(line, ensure_ascii=False), flush=True)
    return 0


def read_prompts(settings: Generate) -> list[Prompt]:
    """Every prompt as text or as messages; `chat` turns text into one user message."""
    if settings.batch < 1:
        raise UserError(f"--batch {settings.batch}: at least one prompt is sampled at a time.")
    found: list[Prompt] = list(settings.prompt)
    if settings.file:
        found += prompts_of(settings.file)
    if not found and not sys.stdin.isatty():
        found = [sys.stdin.read()]
    if not found or not all(found):
        raise UserError("No prompt was given. Write --prompt TEXT, --file FILE.jsonl, or pipe text in.")
    return [[{"role": "user", "content": p}] if settings.chat and isinstance(p, str) else p for p in found]


def prompts_of(file: str) -> Iterator[Prompt]:
    """The `prompt` or `messages` of every row."""
    from rung.data.files import read_rows
    from rung.data.messages import parse_messages

    for row, origin in read_rows(file):
        key = "prompt" if "prompt" in row else "messages"
        value = row.get(key)
        if not value:
            raise UserError(
                f"{origin}: has no `prompt` and no `messages`, or an empty one; give it one of them."
            )
        yield value if isinstance(value, str) else list(parse_messages(value, origin, key))


def prompt_ids(prompt: Prompt, tokenizer: Any, policy: TokenPolicy, model: str) -> list[int]:
    """What the model reads: plain text as it stands, messages through the chat template."""
    import jinja2

    from rung.data.tokens import encode

    if isinstance(prompt, str):
        return policy.begin(encode(tokenizer, [prompt])[0])
    if not tokenizer.chat_template:
        raise UserError(
            f"{model} has no chat template. Continue plain text with it: rung generate {model} --no-chat"
        )
    try:  # a template is a program of the model's author
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template of {model} refuses the conversation: {error}") from error
    return list(ids)
