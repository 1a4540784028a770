"""Answers from a model on this machine: the decoder in its engine, any other family through transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from rung.data.tokens import token_policy
from rung.envs.environment import Environment, Task
from rung.errors import UserError
from rung.eval.records import Prompt
from rung.eval.results import digest as file_digest
from rung.models.decoder import Decoder
from rung.models.folder import digest, read_generation_config, read_tensors
from rung.models.hub import load_tokenizer, resolve
from rung.models.load import base_of, load_model
from rung.pipelines.setup import choose_device, choose_dtype
from rung.pipelines.think import with_budget
from rung.rollouts.episodes import Ask, Episode, Theatre
from rung.rollouts.hf import sampler_for
from rung.rollouts.request import Sampling


class LocalPlayer:
    """`strict` needs arithmetic whose rows do not depend on each other: float32 on a CPU has it."""

    def __init__(
        self,
        name: str,
        environment: Environment,
        sampling: Sampling,
        *,
        strict: bool = False,
        slots: int = 64,
        precision: str = "auto",
        device: str = "auto",
        think_tokens: int | None = None,
    ):
        tokenizer = load_tokenizer(name)
        if not tokenizer.chat_template:
            raise UserError(
                f"{name} has no chat template, and tasks are conversations. Evaluate a model trained to answer, "
                "or give the tokenizer a chat_template"
            )
        where = choose_device(device)
        dtype = choose_dtype("fp32" if strict and precision == "auto" else precision, where)
        model = load_model(name, dtype, where)
        decoder = isinstance(model, Decoder)
        engine = sampler_for(model, slots=slots, tokenizer=tokenizer, batch_invariant=strict)
        policy = token_policy(tokenizer, read_generation_config(resolve(name)) or None)
        self.sampler = engine
        self.theatre = Theatre(engine, environment, tokenizer, policy, sampling)
        self.think_tokens = think_tokens
        self.model: dict[str, Any] = {"name": name, "digest": weights_digest(name)}
        self.sampling: dict[str, Any] = vars(self.theatre.sampling) | {"think_tokens": think_tokens}
        self.engine: dict[str, Any] = {
            "name": "rung" if decoder else "transformers",
            "version": str(torch.__version__)
            if decoder
            else f"{transformers.__version__} on {torch.__version__}",
            "dtype": str(dtype).removeprefix("torch."),
            "device": torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
            "batch_invariant": strict,
        }
        if not strict:  # then how many rows stand side by side may change the last bits
            self.engine["slots"] = slots

    def prompts(self, tasks: Sequence[Task]) -> list[Prompt]:
        rendered = self.theatre.prompts(tasks)
        return [
            Prompt(task.key, task.messages, text, ids, task.reference, task.extra)
            for task, (text, ids) in zip(tasks, rendered, strict=True)
        ]

    def play(self, asks: Sequence[tuple[Task, int]], ended: Callable[[int, dict[str, Any]], None]) -> None:
        if self.think_tokens is not None:
            with_budget(self.theatre, asks, self.think_tokens, ended)
            return
        self.theatre.play(
            [Ask(task, which, seed) for which, (task, seed) in enumerate(asks)],
            lambda which, episode: ended(which, parts(episode)),
        )


def parts(episode: Episode) -> dict[str, Any]:
    """What a Sample holds of an episode, for a grader the same as `Episode.attempt` says."""
    assert episode.last_turn is not None
    attempt = episode.attempt()
    return {
        "answer": attempt.answer,
        "token_ids": attempt.token_ids,
        "finish": episode.last_turn.finish,
        "tokens": attempt.tokens,
        "messages": attempt.messages,
    }


def weights_digest(name: str) -> str:
    """Of the weights as they are stored, whatever dtype they are computed in; an adapter's and its base's."""
    folder = resolve(name)
    if (folder / "adapter_config.json").exists():
        return f"{file_digest(folder / 'adapter_model.safetensors')} on {weights_digest(base_of(folder))}"
    return digest(read_tensors(folder))
