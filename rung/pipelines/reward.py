"""Reward and cost models from settings to a finished run folder: pairs, judged answers, judged steps.

The model is `models.scalar`, the loss `bradley_terry`, `harm_cost` or `step_labels`, the loop the one of every
stage. What is its own here: the calibration report on held-out rows, printed at the end, kept as calibration.json
in the run folder and, in short, in the model's config.json, where whoever uses the scores finds how they are
spread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rung import dist
from rung.batch import Batch, ScalarScores
from rung.config import to_dict
from rung.errors import UserError
from rung.eval.calibration import Calibration, calibrate_costs, calibrate_labels, calibrate_pairs
from rung.methods.bradley_terry import bradley_terry, pair_scores
from rung.methods.harm_cost import SAFE, harm_cost, safety
from rung.methods.step_labels import LABEL, step_labels
from rung.metrics import METRICS
from rung.models.folder import check_vocabulary, digest, read_config, read_tensors
from rung.models.hub import load_tokenizer, resolve
from rung.models.lora import add_adapter, load_adapter, save_adapter
from rung.models.scalar import ABOUT, About, last_tokens, load_scalar, write_scalar
from rung.pipelines.reward_data import RewardData, read_rewards
from rung.pipelines.setup import Subject, choose_device, choose_dtype
from rung.pipelines.stage import Stage, console, micro_tokens, open_stage, run_stage
from rung.run import Run, write_atomically
from rung.settings_reward import BradleyTerry, Reward
from rung.sources.demonstrations import DemonstrationSource
from rung.sources.preferences import PreferenceSource
from rung.train import Method, Metrics, State, Totals

AT_ONCE = 2048  # tokens of a micro-batch unless asked otherwise, or one pair if that is longer
ADAPTER = "adapter"  # in a checkpoint: what a resumed run trains on; the model beside it has it folded in
PAIRED = ("pairs", "costs")  # the kinds whose rows hold two answers
LOSSES = {"pairs": "Bradley-Terry", "costs": "order and sign of costs"}
Source = PreferenceSource | DemonstrationSource


def reward(settings: Reward) -> Path:
    """Train and return the run folder. Continues the run where `settings.resume` names one."""
    method = method_of(settings)
    stage = open_stage("reward", settings)
    data, held_out_data, data_digest, warnings = read_rewards(settings)
    subject, state = load_scalar_stage(stage, settings)
    source = source_of(settings, data, subject)
    held_out = held_out_source(settings, held_out_data, subject) if held_out_data else None
    steps = settings.steps or source.steps()
    counted = "pairs" if settings.kind in PAIRED else "labels"
    held = f", {len(held_out_data.items):,} held out" if held_out_data else ", none held out"
    lines = [
        ("data", f"{len(data.items):,} {'pairs' if counted == 'pairs' else 'judged answers'}{held}, "
                 f"{int(source.lengths.sum()):,} tokens, longest {max(source.lengths)}"),
        *[("warning", warning) for warning in warnings],
        ("steps", f"{steps}, each {settings.step_pairs} rows in micro-batches of {source.micro_tokens:,} tokens"),
    ]  # fmt: skip
    loss = LOSSES.get(settings.kind, "cross-entropy of labels")
    return run_stage(
        stage,
        subject,
        state,
        source,
        partial(say, subject.model),
        method,
        steps=steps,
        config={"data_digest": data_digest, "loss": f"{loss}, mean over the {counted} of the step"},
        lines=lines,
        mean_context=float((source.lengths.astype(float) ** 2).sum() / source.lengths.sum()),
        evaluate=partial(evaluate, subject, held_out, method) if held_out else None,
        finding=partial(report, subject, held_out) if held_out else None,
    )


def method_of(settings: Reward) -> Any:
    """The loss with its options, tried on an empty batch: a bad option is refused here."""
    if settings.kind == "pairs":
        method: Any = partial(bradley_terry, **to_dict(settings.method))
        nothing = torch.zeros(0)
        method(ScalarScores(nothing, nothing), Batch(nothing.long(), nothing.long(), nothing.bool(), (), ()))
        return method
    if settings.method != BradleyTerry():
        raise UserError(
            f"--method has the options of --kind pairs, and with --kind {settings.kind} they change nothing. Leave "
            "them out."
        )
    return harm_cost if settings.kind == "costs" else step_labels


def load_scalar_stage(stage: Stage, settings: Reward) -> tuple[Subject, State]:
    """The scalar model on its device, at the start or at its checkpoint, with float32 masters that know its values."""
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.precision, device)
    source = resolve(settings.model)
    if (source / "adapter_config.json").exists():
        raise UserError(
            f"{settings.model} is an adapter, and training continues from a whole model. Fold it into its base "
            f"first: rung merge-adapter {settings.model} --out MODEL"
        )
    tokenizer = load_tokenizer(settings.model)
    check_vocabulary(tokenizer, read_config(source))
    started = digest(read_tensors(source))
    whole = stage.latest if stage.latest is not None and not settings.lora.rank else settings.model
    model = load_scalar(whole, dtype, device, seed=settings.seed)
    model.about = About(settings.kind, settings.step_end if settings.kind == "process" else "")
    model.checkpointing = settings.recompute
    if settings.lora.rank and stage.latest is None:
        add_adapter(model.trunk, settings.lora, settings.seed)
    elif settings.lora.rank and stage.latest is not None:
        load_adapter(model.trunk, stage.latest / ADAPTER, started)
        model.head.weight.data.copy_(load_scalar(stage.latest).head.weight)
    state = State(model, settings.optimizer, fp16=dtype == torch.float16)
    if not settings.lora.rank and stage.latest is None:  # not the values that bf16 rounded
        stored = {f"trunk.{name}": tensor for name, tensor in read_tensors(source).items()}
        state.masters.load(stored | {"head.weight": model.head.weight.detach().clone()})

    def write(folder: Path) -> None:
        write_scalar(folder, model, tokenizer, source)
        if settings.lora.rank:
            save_adapter(model.trunk, folder / ADAPTER, settings.lora, settings.model, started)

    return Subject(model, tokenizer, device, dtype, started, write), state


def source_of(settings: Reward, data: RewardData, subject: Subject) -> Source:
    common: dict[str, Any] = {"seed": settings.seed, "epochs": None if settings.steps else settings.epochs}
    common |= {"rank": dist.rank(), "world": dist.world()}
    if settings.kind in PAIRED:
        source: Source = PreferenceSource(
            data.items, data.sizes, data.weights, step_pairs=settings.step_pairs,
            micro_tokens=settings.micro_tokens or 1 << 40, **common,
        )  # fmt: skip
    else:
        source = DemonstrationSource(
            data.items, data.sizes, data.weights, step_documents=settings.step_pairs,
            micro_tokens=settings.micro_tokens or 1 << 40, **common,
        )  # fmt: skip
    longest = max(int(source.lengths.max()), AT_ONCE)
    return replace(source, micro_tokens=micro_tokens(settings.micro_tokens, longest, subject.device))


def held_out_source(settings: Reward, data: RewardData, subject: Subject) -> Source:
    """All held-out rows as one step."""
    rows = replace(settings, steps=None, epochs=1.0, step_pairs=len(data.items))
    return replace(source_of(rows, data, subject), rank=0, world=1)


def say(model: Any, batch: Batch) -> Any:
    value_N = model(batch)
    return ScalarScores(value_N, value_N[last_tokens(batch)])


@torch.no_grad()
def evaluate(subject: Subject, source: Source, method: Method) -> Metrics:
    """The loss and its diagnostics on the held-out rows, dropout off."""
    began = time.perf_counter()
    subject.model.eval()
    totals = Totals()
    for batch in (one.to(subject.device) for one in source.step(0)):
        totals.add(method(say(subject.model, batch), batch), batch)
    subject.model.train()
    found = {f"eval_{name}": value for name, value in totals.means().items()}
    return {name: value for name, value in found.items() if name in METRICS} | {
        "eval_seconds": time.perf_counter() - began
    }


def report(subject: Subject, source: Source, run: Run) -> str:
    """Print the calibration on held-out rows and keep it: beside the metrics, and with the model."""
    found = calibration(subject, source)
    if dist.rank() > 0:
        return ""
    write_atomically(run.path / "calibration.json", json.dumps(found.record(), indent=2) + "\n")
    latest = run.latest()
    assert latest is not None
    config = read_config(latest)
    config[ABOUT] |= {"mean": found.mean, "deviation": found.deviation, "accuracy": found.accuracy.value}
    write_atomically(latest / "config.json", json.dumps(config, indent=2) + "\n")
    for name, value in found.lines():
        console.print(f"{name:9} {value}", highlight=False, markup=False, soft_wrap=True)
    return found.verdict()


@torch.no_grad()
def calibration(subject: Subject, source: Source) -> Calibration:
    model: Any = subject.model.eval()
    first: list[float] = []
    second: list[float] = []
    tokens: list[Any] = []
    safe: list[Any] = []
    for batch in (one.to(subject.device) for one in source.step(0)):
        scores = say(model, batch)
        if isinstance(source, PreferenceSource):
            chosen_P, rejected_P = pair_scores(scores, batch)
            first, second = first + chosen_P.tolist(), second + rejected_P.tolist()
            tokens += answer_tokens(batch)
            safe += safety(batch).tolist() if SAFE in batch.columns else []
        else:
            first += scores.value_N[batch.trained_N].tolist()
            second += batch.columns[LABEL][batch.trained_N].tolist()
            tokens += positions_of_marks(batch)
    if safe:
        return calibrate_costs(first, second, safe, tokens)
    if isinstance(source, PreferenceSource):
        return calibrate_pairs(first, second, tokens)
    return calibrate_labels(first, second, tokens)


def answer_tokens(batch: Batch) -> Sequence[tuple[int, int]]:
    """Trained tokens of both answers of each pair."""
    trained = [int(part.sum()) for part in batch.trained_N.split(batch.lengths)]
    return [(trained[chosen], trained[rejected]) for chosen, rejected in batch.pairs]


def positions_of_marks(batch: Batch) -> list[int]:
    return np.asarray(batch.positions_N[batch.trained_N].cpu()).tolist()
