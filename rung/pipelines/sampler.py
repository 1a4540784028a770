"""What a run of reinforcement learning samples with, and how it gets the weights of the moment.

    engine   rung's own, on the very weights that train; a copy of them where sampling runs ahead
    hf       transformers' model and its own forward: any family, slow
    vllm     vLLM in a process of its own

Whatever samples, before a round it is given the weights as they are then, and every token says under which.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rung import dist
from rung.errors import UserError
from rung.models.decoder import Decoder
from rung.models.fallback import Model
from rung.models.fingerprint import fingerprint
from rung.pipelines.setup import Subject
from rung.rollouts.engine import Engine
from rung.rollouts.hf import HfSampler, open_with_transformers, sampler_for
from rung.rollouts.vllm import SILENCE_SECONDS, VllmSampler
from rung.settings_rl import Rl

CPU_CACHE_GB = 2.0  # for vLLM beside a trainer: 64 conversations of 1,300 tokens of SmolLM2-135M

TrainingSampler = Engine | HfSampler | VllmSampler


def check_sampler(settings: Rl, model: Model, *, needs_entropy: str) -> None:
    """Refuse what the sampler cannot do. `needs_entropy` is the method that reads entropies, if it does."""
    if settings.sampler == "engine" and not isinstance(model, Decoder):
        raise UserError(
            f"{settings.model} is not of a family rung decodes itself (`rung doctor` lists them), and its engine "
            "samples from those only. Write --sampler hf."
        )
    if settings.sampler != "engine" and settings.batch_invariant:
        raise UserError(
            f"--batch-invariant is what rung's own engine can promise, and --sampler {settings.sampler} is not it. "
            "Leave one of them out."
        )
    if settings.sampler == "vllm" and needs_entropy:
        raise UserError(
            f"{needs_entropy} gives credit by the entropy of each token, and vLLM reports none. "
            "Write --sampler engine, or another method."
        )
    if settings.sampler == "vllm" and dist.world() > 1:
        raise UserError(
            "--sampler vllm is for one process: each rank would start a vLLM of its own. Start it without torchrun."
        )
    given = {
        "--vllm-python": settings.vllm_python or None,
        "--vllm-cache-gb": settings.vllm_cache_gb,
        "--vllm-seconds": settings.vllm_seconds,
    }
    for option, value in given.items():
        if value is not None and settings.sampler != "vllm":
            raise UserError(
                f"{option} {value} changes nothing with --sampler {settings.sampler}. "
                "Leave it out or write --sampler vllm."
            )
        if not isinstance(value, str | None) and value <= 0:
            raise UserError(f"{option} is {value}; give more than 0, or leave it out.")


@contextmanager
def opened_sampler(settings: Rl, subject: Subject, model: Model) -> Iterator[TrainingSampler]:
    """The sampler of a run; it holds the start weights, or `model` itself. vLLM's process ends with it."""
    sampler = open_sampler(settings, subject, model)
    try:
        yield sampler
    finally:
        if isinstance(sampler, VllmSampler):
            sampler.close()


def open_sampler(settings: Rl, subject: Subject, model: Model) -> TrainingSampler:
    if settings.sampler == "vllm":
        # On a CPU vLLM would compile for minutes, on the trainer's cores, warm up on a full batch, and take nine
        # tenths of the machine's memory. Eager with a cache of known size it does none of that.
        on_cpu = subject.device.type == "cpu"
        return VllmSampler(
            settings.model, python=settings.vllm_python or None, dtype=subject.dtype, slots=settings.slots,
            max_length=settings.max_length, eager=on_cpu,
            cache_gb=settings.vllm_cache_gb or (CPU_CACHE_GB if on_cpu else None),
            seconds=settings.vllm_seconds or SILENCE_SECONDS,
        )  # fmt: skip
    if settings.sampler == "hf" and isinstance(model, Decoder):
        model = open_with_transformers(settings.model, subject.dtype, subject.device).requires_grad_(False)
    elif settings.staleness:
        model = copy.deepcopy(model).requires_grad_(False)
    return sampler_on(settings, subject, model)


def sampler_on(settings: Rl, subject: Subject, model: Model) -> Engine | HfSampler:
    """A sampler on `model` itself, in this process."""
    return sampler_for(
        model,
        slots=settings.slots,
        tokenizer=subject.tokenizer,
        batch_invariant=settings.batch_invariant,
    )


def give_weights(sampler: TrainingSampler, model: nn.Module, version: int) -> None:
    """What is sampled next is sampled with `model`'s weights of this moment, which have seen `version` updates."""
    digest = fingerprint(model, trained_only=True)
    if not isinstance(sampler, Engine):
        sampler.push(model, version, digest)
        return
    if sampler.model is not model:
        with torch.no_grad():
            for ours, theirs in zip(sampler.model.parameters(), model.parameters(), strict=True):
                ours.copy_(theirs)
    sampler.refresh(version, digest)


def rest(sampler: Any) -> None:
    """Give back what only sampling needs."""
    if isinstance(sampler, Engine):
        sampler.sleep()


def gives_entropy(sampler: TrainingSampler) -> bool:
    return not isinstance(sampler, VllmSampler)
