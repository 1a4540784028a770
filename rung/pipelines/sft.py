"""Supervised fine-tuning from settings to a finished run folder.

Everything that can be wrong is found before the run folder exists: data, model, settings, then the run.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from rung import dist
from rung.batch import Batch, Example, TokenScores
from rung.checkpoint import load_checkpoint, save_checkpoint
from rung.config import to_dict
from rung.data.examples import Demonstrations, load_examples
from rung.errors import RunStopped, UserError
from rung.methods.nll import nll
from rung.models.folder import read_config, read_generation_config
from rung.models.hub import load_tokenizer, resolve
from rung.models.lora import load_adapter
from rung.models.policy import neftune, score
from rung.pipelines.observe import Observer, observing
from rung.pipelines.setup import Subject, load_subject, start_masters
from rung.publish import sweep
from rung.run import Run
from rung.settings import Sft
from rung.sources.demonstrations import DemonstrationSource
from rung.trackers import require
from rung.train import Method, Metrics, Scorer, State, train

console = Console(stderr=True)


def sft(settings: Sft) -> Path:
    """Train and return the run folder. Continues the run where `settings.resume` names one."""
    dist.start()
    require(settings.trackers)
    run = _reopen(settings.resume) if settings.resume else None
    latest = _latest(run) if run else None
    data, held_out = _data(settings)  # before the weights: a bad row should not cost the loading of a model
    subject = load_subject(
        settings.model,
        precision=settings.precision,
        device=settings.device,
        lora=settings.lora,
        recompute=settings.recompute,
        seed=settings.seed,
        start=str(latest or ""),
    )
    if latest is not None and settings.lora.rank:
        load_adapter(subject.model, latest)
    state = State(subject.model, settings.optimizer, fp16=subject.dtype == torch.float16)
    source = _source(settings, data, subject)
    steps = settings.steps or source.steps()
    method = partial(nll, **to_dict(settings.method))
    scorer = partial(_score, subject.model, settings)
    config = {
        "command": "sft",
        "settings": to_dict(settings),
        "data_digest": data.digest,
        "start_digest": subject.digest,
        "precision": str(subject.dtype).removeprefix("torch."),
        "device": str(subject.device),
        "steps": steps,
        "loss": f"sum of -log p over trained tokens / number of {_normalize(settings)}s in the step",
    }
    if run is None:
        out = dist.first_rank_says(settings.out or f"runs/sft-{time.strftime('%Y%m%d-%H%M%S')}")
        run = Run.create(out, config) if dist.rank() == 0 else Run(Path(out))
    elif run.config()["data_digest"] != data.digest:
        raise UserError(
            f"{run.path} was started on data with digest {run.config()['data_digest'][:12]}, and the same files now "
            f"give {data.digest[:12]}. Put the old rows back, or start a new run from its checkpoint with --model {latest}."
        )
    return _train(run, settings, subject, state, source, held_out, steps, method, scorer, config, latest)


def _train(
    run: Run,
    settings: Sft,
    subject: Subject,
    state: State,
    source,
    held_out,
    steps,
    method,
    scorer,
    config,
    latest,
) -> Path:
    if latest is None:
        start_masters(state, settings.model)
    else:
        load_checkpoint(latest, state)
        if dist.rank() == 0:
            sweep(run.path / "checkpoints")
            run.rewind(state.step)
    _announce(run, settings, subject, source, steps, config, state)
    observer = Observer(run, subject.model.config, subject.dtype, subject.device, _mean_context(source))

    def save(state: State) -> None:
        if dist.rank() == 0:
            save_checkpoint(run, state, subject.write, keep=settings.keep)
        dist.wait()

    try:
        with observing(observer, steps, settings.trackers, config) as observe:
            train(
                state, source, scorer, method, settings.optimizer,
                steps=steps, seed=settings.seed, device=subject.device, observe=observe,
                evaluate=partial(_evaluate, subject, held_out, method, settings) if held_out else None,
                evaluate_every=settings.eval_every, save=save, save_every=settings.save_every,
            )  # fmt: skip
    except RunStopped as stop:
        _close(run, "stopped" if stop.code == 130 else "failed", str(stop))
        remedy = f" Continue with: rung sft --resume {run.path}" if stop.code == 130 else ""
        raise RunStopped(str(stop) + remedy, stop.code) from None
    except BaseException as error:
        _close(run, "failed", f"{type(error).__name__}: {error}")
        raise
    _close(run, "finished", "did every step asked for")
    console.print(f"finished {steps} steps; model in [bold]{run.latest()}[/bold]", highlight=False)
    return run.path


def _close(run: Run, state: Literal["stopped", "failed", "finished"], reason: str) -> None:
    if dist.rank() == 0:
        run.write_status(state, reason)
    dist.stop()


def _reopen(path: str) -> Run:
    if Run.open(path).status()["state"] == "finished":
        raise UserError(
            f"{path} has finished every step. To train further, start a new run with --model {path}."
        )
    return Run.resume(path) if dist.rank() == 0 else Run.open(path)


def _latest(run: Run) -> Path:
    path = run.latest()
    if path is None:
        raise UserError(
            f"{run.path} has no checkpoint to resume from: it ended before the first. Start it anew with --out."
        )
    return path


def _data(settings: Sft) -> tuple[Demonstrations, list[Example]]:
    """Training examples, and held-out ones from files of their own or split off the end of a fixed shuffle."""
    folder = resolve(settings.model)
    context = read_config(folder).get("max_position_embeddings")
    if context and settings.max_length > context:
        raise UserError(
            f"--max-length {settings.max_length} exceeds the context of {settings.model}, {context} tokens. "
            f"Write --max-length {context} or less."
        )
    read = partial(
        load_examples,
        tokenizer=load_tokenizer(settings.model),
        max_length=settings.max_length,
        overlong=settings.overlong,
        history_thinking=settings.history_thinking,
        generation_config=read_generation_config(folder) or None,
    )
    data = read(settings.data)
    if settings.eval_data:
        return data, read(settings.eval_data).examples
    if not settings.eval_share:
        return data, []
    return _split(data, settings.eval_share, settings.seed)


def _split(data: Demonstrations, share: float, seed: int) -> tuple[Demonstrations, list[Example]]:
    """Hold out a share of each file, chosen by the seed."""
    if not 0 < share < 1:
        raise UserError(
            f"--eval-share is {share}, and it is a share between 0 and 1. Write for example 0.05."
        )
    generator = torch.Generator().manual_seed(seed)
    kept: list[Example] = []
    held_out: list[Example] = []
    sizes, start = [], 0
    for size in data.sizes:
        order = torch.randperm(size, generator=generator).tolist()
        cut = max(round(size * share), 1)
        if cut >= size:
            raise UserError(
                f"--eval-share {share} of a file with {size} examples leaves none to train on. Lower it."
            )
        held_out += [data.examples[start + i] for i in sorted(order[:cut])]
        kept += [data.examples[start + i] for i in sorted(order[cut:])]
        sizes.append(size - cut)
        start += size
    return Demonstrations(kept, sizes, data.weights, data.report, data.digest), held_out


def _source(settings: Sft, data: Demonstrations, subject: Subject) -> DemonstrationSource:
    return DemonstrationSource(
        data.examples,
        data.sizes,
        data.weights,
        seed=settings.seed,
        epochs=None if settings.steps else settings.epochs,
        step_tokens=settings.step_tokens,
        step_documents=settings.step_documents,
        micro_tokens=_micro_tokens(settings, subject),
        packing=settings.packing,
        rank=dist.rank(),
        world=dist.world(),
    )


def _micro_tokens(settings: Sft, subject: Subject) -> int:
    """What goes through the model at once: as asked, else what keeps the device busy, and any one document."""
    return settings.micro_tokens or max(settings.max_length, 16384 if subject.device.type == "cuda" else 1024)


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
    micro = _micro_tokens(settings, subject)
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


def _mean_context(source: DemonstrationSource) -> float:
    """How long the document of an average token is, for counting attention's arithmetic."""
    return float((source.lengths.astype(float) ** 2).sum() / source.lengths.sum())


def _announce(
    run: Run, settings: Sft, subject: Subject, source: DemonstrationSource, steps: int, config, state: State
) -> None:
    """What this run will do, in numbers, before it does it."""
    if dist.rank() > 0:
        return
    trained = sum(w.numel() for w in state.masters.weights.values())
    total = sum(p.numel() for p in subject.model.parameters())
    budget = (
        f"{settings.step_documents} documents"
        if settings.step_documents
        else f"{settings.step_tokens:,} tokens"
    )
    lines = [
        f"run      {run.path}" + (f", resumed after step {state.step}" if state.step else ""),
        f"model    {settings.model}: {total / 1e6:.1f} M weights, {trained / 1e6:.1f} M trained, "
        f"{config['precision']} with float32 masters on {subject.device}",
        f"data     {len(source.examples):,} examples, {int(source.lengths.sum()):,} tokens, longest {source.lengths.max()}",
        f"steps    {steps}, each up to {budget} in micro-batches of {source.micro_tokens:,} tokens",
        f"loss     {config['loss']}",
    ]
    console.print("\n".join(lines), highlight=False, markup=False)
