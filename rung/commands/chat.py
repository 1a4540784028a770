"""`rung chat MODEL`: talk to a model in the terminal, or through a pipe one line a turn."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from rung.errors import UserError


@dataclass(frozen=True)
class Chat:
    """Talk to a model. An empty line or Ctrl-D ends it; /new forgets the conversation."""

    model: tyro.conf.Positional[str] = "smollm2-135m"
    """A known name, a Hugging Face id, a folder, a run folder or a .gguf file."""
    system: str = ""
    """A system message to begin with."""
    max_new_tokens: int = 512
    """Longest answer in tokens."""
    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 0.95
    """Sample from the smallest set of tokens with this much probability."""
    seed: int = 0
    """Same seed, same words, same answers."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of weights and arithmetic; auto is bf16 where the hardware multiplies it natively."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto takes a GPU if there is one."""


def main(settings: Chat) -> int:
    from rung.commands.generate import prompt_ids
    from rung.data.tokens import token_policy
    from rung.models.folder import read_generation_config
    from rung.models.hub import load_tokenizer, resolve
    from rung.models.load import load_model
    from rung.pipelines.setup import choose_device, choose_dtype
    from rung.rollouts.hf import sampler_for
    from rung.rollouts.request import Sampling

    tokenizer = load_tokenizer(settings.model)
    policy = token_policy(tokenizer, read_generation_config(resolve(settings.model)))
    where = choose_device(settings.device)
    model = load_model(settings.model, choose_dtype(settings.precision, where), where)
    sampler = sampler_for(model, slots=1)  # one row, whose cache the next turn starts from
    opening = [{"role": "system", "content": settings.system}] if settings.system else []
    messages = list(opening)
    for turn, line in enumerate(turns()):
        if line == "/new":
            messages = list(opening)
            continue
        messages.append({"role": "user", "content": line})
        prompt = prompt_ids(messages, tokenizer, policy, settings.model)
        room = model.config.context - len(prompt)
        if room < 1:
            raise UserError(
                f"The conversation has filled the model's context of {model.config.context} tokens. "
                "Begin anew with /new."
            )
        sampling = Sampling(
            max_tokens=min(settings.max_new_tokens, room),
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop_ids=policy.stop_ids,
            seed=settings.seed + turn,
        )
        answer = ""
        for piece in pieces(tokenizer, sampler.stream(prompt, sampling)):
            answer += piece
            print(piece, end="", flush=True)
        print()
        messages.append({"role": "assistant", "content": answer})
    return 0


def turns() -> Iterator[str]:
    """The user's lines, until an empty one or the end."""
    while True:
        if sys.stdin.isatty():
            try:
                line = input("> ")
            except EOFError:
                print()
                return
        else:
            line = sys.stdin.readline()
        if not line.strip():
            return
        yield line.strip()


def pieces(tokenizer: Any, tokens: Iterable[int]) -> Iterator[str]:
    """Text as it becomes certain: a character may take several tokens, and half of one is not shown."""
    from rung.rollouts.detokenise import Detokeniser

    text = Detokeniser(tokenizer)
    for token in tokens:
        if piece := text.push([token]):
            yield piece
    yield text.end()
