"""`rung generate MODEL`: answers to prompts from the command line or a file."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from rung.errors import UserError


@dataclass(frozen=True)
class Generate:
    """Complete prompts. One prompt prints its answer; a file of prompts prints one JSON object a line."""

    model: tyro.conf.Positional[str]
    """A known name, a Hugging Face id, a folder, a run folder or a .gguf file."""
    prompt: tuple[str, ...] = ()
    """Prompts as they stand."""
    file: str = ""
    """A JSONL file whose rows have `prompt` (text) or `messages`."""
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
    from rung.rollouts.generate import Sampling, generate

    tokenizer = load_tokenizer(settings.model)
    if settings.chat and not tokenizer.chat_template:
        raise UserError(f"{settings.model} has no chat template. Write --no-chat to continue plain text.")
    policy = token_policy(tokenizer, read_generation_config(resolve(settings.model)))
    prompts = [
        policy.begin(tokenizer.encode(row, add_special_tokens=False))
        if isinstance(row, str)
        else tokenizer.apply_chat_template(row, add_generation_prompt=True, return_dict=False)
        for row in rows
    ]
    model = load_model(settings.model, torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    sampling = Sampling(
        settings.max_new_tokens,
        settings.temperature,
        settings.top_p,
        (*policy.stop_ids, *settings.stop),
        settings.seed,
    )
    for start in range(0, len(rows), settings.batch):
        part = slice(start, start + settings.batch)
        for row, ids in zip(rows[part], generate(model, prompts[part], sampling), strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True)
            alone = len(rows) == 1 and not settings.file
            print(text if alone else json.dumps({"prompt": row, "completion": text}, ensure_ascii=False), flush=True)
    return 0


def read_prompts(settings: Generate) -> list[str | list[dict]]:
    """Every prompt as text or as messages; `chat` turns text into one user message."""
    found: list[str | list[dict]] = list(settings.prompt)
    if settings.file:
        path = Path(settings.file)
        if not path.is_file():
            raise UserError(f"--file {path}: there is no such file.")
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                row = json.loads(line)
                found.append(row["prompt"] if "prompt" in row else row["messages"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}:{number}: needs a JSON object with `prompt` or `messages` ({error!r}).") from None
    if not found and not sys.stdin.isatty():
        found = [sys.stdin.read()]
    if not found or not all(found):
        raise UserError("No prompt was given. Write --prompt TEXT, --file FILE.jsonl, or pipe text in.")
    return [[{"role": "user", "content": p}] if settings.chat and isinstance(p, str) else p for p in found]
