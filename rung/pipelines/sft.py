"""Supervised fine-tuning from settings to a finished run folder; `stage` does what every pipeline shares."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rung import dist
from rung.batch import Batch, Example, TokenScores
from rung.config import to_dict
from rung.data.examples import Demonstrations, load_examples
from rung.methods.nll import nll
from rung.models.folder import read_generation_config
from rung.models.hub import load_tokenizer, resolve
from rung.models.policy import neftune, score
from rung.pipelines.anchor import both, held
from rung.pipelines.setup import Subject
from rung.pipelines.stage import (
    check_context,
    held_out_places,
    load_stage,
    micro_tokens,
    open_stage,
    run_stage,
)
from rung.settings import Sft, Supervised
from rung.sources.demonstrations import DemonstrationSource
from rung.train import Method, Metrics, Scorer


def sft(settings: Sft) -> Path:
    """Train and return the run folder. Continues the run where `settings.resume` names one."""
    stage = open_stage("sft", settings)
    data, held_out = read_data(settings)
    old = read_examples(settings, settings.anchor.data) if settings.anchor.data else None
    subject, state = load_stage(stage)
    source = source_of(settings, data, subject)
    plain: Method = partial(nll, **to_dict(settings.method))
    evaluate = partial(_evaluate, subject, held_out, plain, settings) if held_out else None
    loss = f"sum of -log p over trained tokens / number of {_normalize(settings)}s in the step"
    method = plain
    if settings.anchor.l2 or settings.anchor.ewc:
        method = held(stage, settings, subject, state, plain, old)
        loss += ", and 1/2 sum (l2 + ewc F) (w - start)^2"
    config = {"data_digest": both(data.digest, old), "loss": loss}
    return run_stage(
        stage,
        subject,
        state,
        source,
        partial(_score, subject.model, settings),
        method,
        steps=settings.steps or source.steps(),
        config=config,
        lines=lines_of(settings, source, settings.steps or source.steps()),
        mean_context=mean_context(source),
        evaluate=evaluate,
    )


def read_data(settings: Supervised) -> tuple[Demonstrations, list[Example]]:
    """Training examples, and held-out ones from files of their own or split off the end of a fixed shuffle."""
    check_context(settings.model, settings.max_length)
    data = read_examples(settings, settings.data)
    if settings.eval_data:
        return data, read_examples(settings, settings.eval_data).examples
    if not settings.eval_share:
        return data, []
    kept, held_out, sizes = held_out_places(data.sizes, settings.eval_share, settings.seed)
    train = Demonstrations([data.examples[i] for i in kept], sizes, data.weights, data.report, data.digest)
    return train, [data.examples[i] for i in held_out]


def read_examples(settings: Supervised, specs: Sequence[str]) -> Demonstrations:
    return load_examples(
        specs,
        tokenizer=load_tokenizer(settings.model),
        max_length=settings.max_length,
        overlong=settings.overlong,
        history_thinking=settings.history_thinking,
        generation_config=read_generation_config(resolve(settings.model)) or None,
    )


def source_of(settings: Supervised, data: Demonstrations, subject: Subject) -> DemonstrationSource:
    return DemonstrationSource(
        data.examples,
        data.sizes,
        data.weights,
        seed=settings.seed,
        epochs=None if settings.steps else settings.epochs,
        step_tokens=settings.step_tokens,
        step_documents=settings.step_documents,
        micro_tokens=micro_tokens(settings.micro_tokens, settings.max_length, subject.device),
        packing=settings.packing,
        rank=dist.rank(),
        world=dist.world(),
    )


def _score(model, settings: Sft, batch: Batch) -> TokenScores:
    perturb = None
    if settings.neftune and model.training:
        perturb = neftune(settings.neftune, batch.lengths)
    return score(
        model, batch, head_float32=settings.head_float32, mean_over=_normalize(settings), perturb=perturb
    )


@torch.no_grad()
def _evaluate(subject: Subject, held_out: list[Example], method: Method, settings: Sft) -> Metrics:
    """The method's loss on the held-out documents, dropout and noise off."""
    began = time.perf_counter()
    micro = micro_tokens(settings.micro_tokens, settings.max_length, subject.device)
    source = DemonstrationSource(
        held_out, [len(held_out)], None, epochs=1, step_tokens=1 << 60, micro_tokens=micro
    )
    subject.model.eval()
    scorer: Scorer = partial(_score, subject.model, settings)
    losses = [method(scorer(batch), batch) for batch in (b.to(subject.device) for b in source.step(0))]
    subject.model.train()
    loss = sum(float(one.sum) for one in losses) / sum(one.count for one in losses)
    return {"eval_loss": loss, "eval_seconds": time.perf_counter() - began}


def _normalize(settings: Sft) -> Any:
    """What the loss is a mean over. The settings class is made from `nll`'s signature, so it has no static type."""
    method: Any = settings.method
    return method.normalize


def mean_context(source: DemonstrationSource) -> float:
    """How long the document of an average token is, for counting attention's arithmetic."""
    return float((source.lengths.astype(float) ** 2).sum() / source.lengths.sum())


def lines_of(settings: Supervised, source: DemonstrationSource, steps: int) -> list[tuple[str, str]]:
    """What this run will do, in numbers, before it does it."""
    budget = (
        f"{settings.step_documents} documents"
        if settings.step_documents
        else f"{settings.step_tokens:,} tokens"
    )
    data = f"{len(source.examples):,} examples, {int(source.lengths.sum()):,} tokens, longest {source.lengths.max()}"
    return [
        ("data", data),
        ("steps", f"{steps}, each up to {budget} in micro-batches of {source.micro_tokens:,} tokens"),
    ]
