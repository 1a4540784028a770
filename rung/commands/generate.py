"""`rung generate MODEL`: answers to prompts from the command line or a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import tyro

from rung.errors import UserError

if TYPE_CHECKING:
    from rung.data.tokens import TokenPolicy
    from rung.rollouts.engine import Engine
    from rung.rollouts.hf import HfSampler
    from rung.rollouts.request import Completion, Sampling

Prompt = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Generate:
    """Complete prompts. One prompt prints its answer; a file of prompts prints one JSON object a line.

    How tokens are chosen, in the order in which the options apply: docs/sampling.md.
    """

    model: tyro.conf.Positional[str]
    """A known name, a Hugging Face id, a folder, a run folder or a .gguf file."""
    prompt: tuple[str, ...] = ()
    """Prompts as they stand."""
    file: str = ""
    """A JSONL or Parquet file whose rows have `prompt` (text or messages) or `messages`."""
    chat: bool = True
    """Put text prompts through the chat template as a user's turn; off, continue the plain text."""
    samples: int = 1
    """Answers to each prompt."""
    max_new_tokens: int = 256
    """Longest answer in tokens."""
    min_new_tokens: int = 0
    """No token that ends an answer before this many."""
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """Sample from this many likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this much probability."""
    min_p: float = 0.0
    """Sample from tokens at least this share as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that the prompt or the answer has already become less likely."""
    stop: tuple[int, ...] = ()
    """Token ids that end an answer, besides the model's own."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end an answer; they are not printed."""
    logprobs: bool = False
    """Print one JSON object an answer, with its token ids and their log-probs."""
    batch: int = 32
    """Answers sampled together."""
    backend: Literal["rung", "hf"] = "rung"
    """rung's engine, or transformers as an independent second opinion."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of weights and arithmetic; auto is bf16 where the hardware multiplies it natively."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto takes a GPU if there is one."""
    seed: int = 0
    """Everything random."""


def main(settings: Generate) -> int:
    rows = read_prompts(settings)
    from rung.data.tokens import token_policy
    from rung.models.folder import read_generation_config
    from rung.models.hub import load_tokenizer, resolve
    from rung.models.load import load_model
    from rung.pipelines.setup import choose_device, choose_dtype
    from rung.rollouts.hf import open_with_transformers, sampler_for
    from rung.rollouts.request import Sampling, check

    tokenizer = load_tokenizer(settings.model)
    policy = token_policy(tokenizer, read_generation_config(resolve(settings.model)))
    prompts = [prompt_ids(row, tokenizer, policy, settings.model) for row in rows]
    opened = load_model if settings.backend == "rung" else open_with_transformers
    where = choose_device(settings.device)
    model = opened(settings.model, choose_dtype(settings.precision, where), where)
    sampling = Sampling(
        max_tokens=settings.max_new_tokens,
        min_tokens=settings.min_new_tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        repetition_penalty=settings.repetition_penalty,
        stop_ids=(*policy.stop_ids, *settings.stop),
        stop_strings=settings.stop_strings,
        seed=settings.seed,
    )
    c = model.config  # all prompts, before the first answer is printed
    check(prompts, sampling, context=c.context, vocabulary=c.vocabulary)
    sampler = sampler_for(model, slots=settings.batch, tokenizer=tokenizer)
    plain = len(rows) == 1 and not (settings.file or settings.logprobs or settings.samples > 1)
    for row, group in zip(rows, answers(sampler, prompts, sampling, settings.samples), strict=True):
        for number, completion in enumerate(group):
            line = described(row, number, completion, tokenizer, settings)
            print(line["completion"] if plain else json.dumps(line, ensure_ascii=False), flush=True)
    return 0


def answers(
    sampler: Engine | HfSampler, prompts: list[list[int]], sampling: Sampling, n: int
) -> Iterator[list[Completion]]:
    """n answers to each prompt in their order, each prompt's as soon as they are whole."""
    from rung.rollouts.engine import Engine, sample_seed

    if not isinstance(sampler, Engine):
        yield from sampler.generate(prompts, sampling, n)
        return
    groups = [
        [sampler.submit(p, replace(sampling, seed=sample_seed(sampling.seed, i, j))) for j in range(n)]
        for i, p in enumerate(prompts)
    ]
    for group in groups:
        while not all(completion.finish for completion in group):
            sampler.step()
        yield group


def described(
    row: Prompt, number: int, completion: Completion, tokenizer: Any, settings: Generate
) -> dict[str, Any]:
    """One answer as it is printed: its text up to a stop string, and the numbers that were asked for."""
    text = tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    ends = [text.find(stop) for stop in settings.stop_strings if stop in text]
    line: dict[str, Any] = {"prompt": row, "completion": text[: min(ends)] if ends else text}
    if settings.samples > 1:
        line["sample"] = number
    if settings.logprobs:
        line["token_ids"] = completion.token_ids
        line["policy_logprob"] = [round(value, 6) for value in completion.policy_logprob]
        line["sampler_logprob"] = [round(value, 6) for value in completion.sampler_logprob]
        line["finish"] = completion.finish
    return line


def read_prompts(settings: Generate) -> list[Prompt]:
    """Every prompt as text or as messages; `chat` turns text into one user message."""
    if settings.batch < 1:
        raise UserError(f"--batch {settings.batch}: at least one answer is sampled at a time.")
    if settings.samples < 1:
        raise UserError(f"--samples {settings.samples}: ask for at least one answer to each prompt.")
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
