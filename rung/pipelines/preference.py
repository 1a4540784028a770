"""Preference training from settings to a finished run folder: DPO and its kin, and KTO on thumbs.

The reference is the start policy, by construction: the weights that `--model` names, with adapters at their
zero start. Its log-probs are computed before the first step and cached (`sources.reference`), so that
training holds one model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rung import dist
from rung.batch import Batch, Example, Pair, TokenScores, collate_pairs
from rung.config import to_dict
from rung.methods import find
from rung.methods.preference import PROBABILITY, REFERENCE
from rung.metrics import METRICS
from rung.models.hub import cache_folder
from rung.models.policy import score
from rung.pipelines.displacement import finding
from rung.pipelines.preference_data import PairData, read_pairs
from rung.pipelines.setup import Subject, load_subject
from rung.pipelines.stage import (
    Stage,
    StageSettings,
    console,
    load_stage,
    micro_tokens,
    open_stage,
    run_stage,
    same_start,
)
from rung.settings_preference import Preference
from rung.sources.preferences import PreferenceSource
from rung.sources.reference import with_reference
from rung.train import Method, Metrics, Scorer, Totals

REFERENCE_FREE = ("simpo", "orpo", "slic")
AT_ONCE = 2048  # tokens of a micro-batch unless asked otherwise, or one pair if that is longer


def preference(command: str, settings: Preference) -> Path:
    """Train by the method `command` and return the run folder. Continues where `settings.resume` names a run."""
    method = method_of(command, settings)
    stage = open_stage(command, settings)
    data, held_out_data, digest, warning = read_pairs(settings, judged=command == "kto")
    subject, state = load_stage(stage)
    same_start(stage, subject)
    source = source_of(settings, data, subject)
    held_out = held_out_source(settings, held_out_data, subject) if held_out_data else None
    steps = settings.steps or source.steps()
    if command not in REFERENCE_FREE or settings.track_start:
        source = referenced(stage, subject, source, steps)
        held_out = referenced(stage, subject, held_out, 1) if held_out else None
    counted = "answers" if command == "kto" else "pairs"
    lines = [
        ("data", f"{len(source.pairs):,} {counted}, {int(source.lengths.sum()):,} tokens, longest {max(source.lengths)}"),
        *([("warning", warning)] if warning else []),
        ("steps", f"{steps}, each {settings.step_pairs} {counted} in micro-batches of {source.micro_tokens:,} tokens"),
    ]  # fmt: skip
    return run_stage(
        stage,
        subject,
        state,
        source,
        partial(say, subject.model, settings),
        method,
        steps=steps,
        config={"data_digest": digest, "loss": f"{command}, mean over the {counted} of the step"},
        lines=lines,
        mean_context=float((source.lengths.astype(float) ** 2).sum() / source.lengths.sum()),
        evaluate=partial(evaluate, subject, held_out, method, settings) if held_out else None,
        finding=finding,
    )


def method_of(command: str, settings: Any) -> Method:
    """The loss of this name with its options."""
    return tried(partial(find(command), **to_dict(settings.method)))


def tried(method: Method) -> Method:
    """The loss, once it has been tried on two equal answers: a bad option is refused here."""
    start = {REFERENCE: np.zeros(2, np.float32), PROBABILITY: np.ones(2, np.float32)}
    example = Example(np.zeros(2, np.int32), np.array([False, True]), "", start)
    batch = collate_pairs([Pair(example, example)], [True])
    method(TokenScores(torch.full((2,), -1.0), torch.tensor([1, 2])), batch)
    return method


def source_of(settings: Preference, data: PairData, subject: Subject) -> PreferenceSource:
    source = PreferenceSource(
        data.pairs,
        data.sizes,
        data.weights,
        data.labels,
        seed=settings.seed,
        epochs=None if settings.steps else settings.epochs,
        step_pairs=settings.step_pairs,
        micro_tokens=settings.micro_tokens or 1 << 40,
        rank=dist.rank(),
        world=dist.world(),
    )
    longest = max(int(source.lengths.max()), AT_ONCE)
    return replace(source, micro_tokens=micro_tokens(settings.micro_tokens, longest, subject.device))


def held_out_source(settings: Preference, data: PairData, subject: Subject) -> PreferenceSource:
    """All held-out pairs as one step."""
    whole = replace(data, sizes=[len(data.pairs)], weights=None)
    source = source_of(replace(settings, steps=None, epochs=1.0, step_pairs=len(data.pairs)), whole, subject)
    return replace(source, rank=0, world=1)


def referenced(stage: Stage, subject: Subject, source: PreferenceSource, steps: int) -> PreferenceSource:
    """The source with the start's log-probs on its pairs."""
    settings: Any = stage.settings
    began = time.perf_counter()
    called: list[bool] = []

    def start() -> Scorer:
        called.append(True)
        model = (subject if stage.latest is None else started(settings)).model
        return evaluating(model, partial(say, model, settings))

    identity = [subject.digest, str(subject.dtype), str(subject.device), f"{settings.head_float32}"]
    folder = cache_folder().parent / "references"
    pairs = with_reference(source, steps, start, identity, folder, subject.device)
    if dist.rank() == 0:
        how = f"scored in {time.perf_counter() - began:.0f} s" if called else "found in the cache"
        console.print(
            f"start    log-probs of {len(pairs):,} pairs {how}", highlight=False, markup=False, soft_wrap=True
        )
    return replace(source, pairs=pairs)


def started(settings: StageSettings) -> Subject:
    """The start policy loaded anew, for a resumed run whose cache is gone."""
    return load_subject(
        settings.model,
        precision=settings.precision,
        device=settings.device,
        lora=settings.lora,
        recompute=False,
        seed=settings.seed,
    )


def evaluating(model: nn.Module, scorer: Scorer) -> Scorer:
    """The scorer with dropout off."""

    def scored(batch: Batch) -> TokenScores:
        model.eval()
        return scorer(batch)

    return scored


def say(model: Any, settings: Preference, batch: Batch) -> TokenScores:
    return score(model, batch, head_float32=settings.head_float32)


@torch.no_grad()
def evaluate(subject: Subject, source: PreferenceSource, method: Callable, settings: Preference) -> Metrics:
    """The method's loss and diagnostics on the held-out pairs, dropout off."""
    began = time.perf_counter()
    subject.model.eval()
    totals = Totals()
    for batch in (one.to(subject.device) for one in source.step(0)):
        totals.add(method(say(subject.model, settings, batch), batch), batch)
    subject.model.train()
    found = {f"eval_{name}": value for name, value in totals.means().items()}
    return {name: value for name, value in found.items() if name in METRICS} | {
        "eval_seconds": time.perf_counter() - began
    }
