"""Distillation on data from settings to a finished run folder: supervised training whose target is a distribution.

Rows, layout, steps and resuming are those of `pipelines/sft.py`; the scorer asks a teacher as well, and the method
reads its divergence instead of the row's own tokens.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rung.batch import Batch, Example, TokenScores, collate
from rung.config import to_dict
from rung.endpoint import is_url
from rung.errors import UserError
from rung.kernels.linear_divergence import Measure
from rung.methods.distill import distill as loss_of
from rung.models.policy import neftune
from rung.models.taught import score_against
from rung.pipelines.setup import Subject
from rung.pipelines.sft import lines_of, mean_context, read_data, source_of
from rung.pipelines.stage import load_stage, micro_tokens, open_stage, run_stage
from rung.pipelines.teacher import Lesson, check_teacher, prepare, same_teacher, vocabulary_of
from rung.settings_distill import Distill, DistillOnPolicy
from rung.sources.demonstrations import DemonstrationSource
from rung.train import Method, Metrics, Totals


def distill(settings: Distill) -> Path:
    """Train and return the run folder. Continues the run where `settings.resume` names one."""
    check_teacher(settings)
    measure, method = measure_of(settings), method_of(settings)
    if not is_url(settings.teacher):
        vocabulary_of(settings.model, settings.teacher)
    stage = open_stage("distill", settings)
    data, held_out = read_data(settings)
    digest = same_teacher(stage, settings.teacher)  # before the teacher is asked about all the data
    subject, state = load_stage(stage)
    lesson = prepare(settings, subject, [*data.examples, *held_out], digest)
    train, tests = lesson.examples[: len(data.examples)], lesson.examples[len(data.examples) :]
    source = source_of(settings, replace(data, examples=train), subject)
    steps = settings.steps or source.steps()
    return run_stage(
        stage,
        subject,
        state,
        source,
        partial(say, subject, settings, lesson, measure),
        method,
        steps=steps,
        config={
            "data_digest": data.digest,
            "loss": f"{in_words(measure)} to the teacher per token",
            **({"teacher_digest": digest} if digest else {}),
        },
        lines=[*lines_of(settings, source, steps), ("teacher", lesson.said)],
        mean_context=mean_context(source),
        evaluate=partial(evaluate, subject, settings, lesson, measure, tests, method) if tests else None,
    )


def measure_of(settings: Distill | DistillOnPolicy) -> Measure:
    try:
        return Measure(settings.divergence, settings.beta)
    except ValueError as error:
        raise UserError(f"--beta: {error}") from None


def method_of(settings: Distill) -> Method:
    """The loss with its options, tried on one token: a bad option is refused here."""
    method: Method = partial(loss_of, **to_dict(settings.method))
    one = torch.ones(1)
    batch = collate([Example(np.zeros(2, np.int32), np.array([False, True]), "")])
    method(TokenScores(-one, torch.zeros(1, dtype=torch.int64), divergence_M=one), batch)
    return method


def in_words(measure: Measure) -> str:
    named = measure.kind.replace("_", " ")
    return f"{named} with beta {measure.beta:g}" if measure.kind == "jensen_shannon" else named


def say(subject: Subject, settings: Distill, lesson: Lesson, measure: Measure, batch: Batch) -> TokenScores:
    model: Any = subject.model
    noisy = settings.neftune and model.training
    return score_against(
        model, batch, lesson.teacher, measure, size=lesson.size, temperature=settings.temperature,
        head_float32=settings.head_float32, perturb=neftune(settings.neftune, batch.lengths) if noisy else None,
    )  # fmt: skip


@torch.no_grad()
def evaluate(
    subject: Subject,
    settings: Distill,
    lesson: Lesson,
    measure: Measure,
    held_out: list[Example],
    method: Method,
) -> Metrics:
    """The loss and the divergence on the held-out documents, dropout and noise off."""
    began = time.perf_counter()
    micro = micro_tokens(settings.micro_tokens, settings.max_length, subject.device)
    source = DemonstrationSource(
        held_out, [len(held_out)], None, epochs=1, step_tokens=1 << 60, micro_tokens=micro
    )
    subject.model.eval()
    totals = Totals()
    for batch in (one.to(subject.device) for one in source.step(0)):
        totals.add(method(say(subject, settings, lesson, measure, batch), batch), batch)
    subject.model.train()
    found = totals.means()
    return {
        "eval_loss": found["loss"],
        "eval_teacher_divergence": found["teacher_divergence"],
        "eval_seconds": time.perf_counter() - began,
    }
