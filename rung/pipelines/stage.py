"""One stage of post-training as a run folder: open or resume it, train, close it. Every pipeline goes through here.

A pipeline reads in this order, so that everything that can be wrong is found before the run folder exists:

    stage = open_stage("sft", settings)          the run to continue, if one is named; ranks; trackers
    data = ...                                   a bad row should not cost the loading of a model
    subject, state = load_stage(stage)           the model where it stands: at the start or at its checkpoint
    source, scorer, method = ...
    return run_stage(stage, subject, state, source, scorer, method, steps=..., config=..., ...)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from rich.console import Console

from rung import dist
from rung.checkpoint import load_checkpoint, save_checkpoint
from rung.config import to_dict
from rung.errors import RunStopped, UserError
from rung.models.folder import read_config
from rung.models.hub import resolve
from rung.models.lora import load_adapter
from rung.pipelines.observe import Observer, observing
from rung.pipelines.setup import Subject, load_subject, start_masters
from rung.publish import sweep
from rung.run import Run
from rung.settings import Lora, Optimizer
from rung.trackers import require
from rung.train import Method, Metrics, Scorer, Source, State, train

console = Console(stderr=True)


class StageSettings(Protocol):
    """What the settings of every training command hold."""

    @property
    def model(self) -> str: ...
    @property
    def out(self) -> str: ...
    @property
    def resume(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def recompute(self) -> bool: ...
    @property
    def seed(self) -> int: ...
    @property
    def save_every(self) -> int: ...
    @property
    def eval_every(self) -> int: ...
    @property
    def keep(self) -> int: ...
    @property
    def trackers(self) -> Sequence[str]: ...
    @property
    def lora(self) -> Lora: ...
    @property
    def optimizer(self) -> Optimizer: ...


@dataclass(frozen=True)
class Stage:
    """A command with its settings, and where it goes on."""

    command: str  # as typed after `rung`: it names the run folder and the way to resume
    settings: StageSettings
    run: Run | None  # the run to continue; None starts a new one
    latest: Path | None  # its checkpoint


def open_stage(command: str, settings: StageSettings) -> Stage:
    dist.start()
    require(settings.trackers)
    run = _reopen(settings.resume) if settings.resume else None
    return Stage(command, settings, run, _latest(run) if run else None)


def load_stage(stage: Stage) -> tuple[Subject, State]:
    """The model on its device and a fresh State; weights are those of the checkpoint where one is continued."""
    subject = load_model_of(stage)
    fp16 = subject.dtype == torch.float16
    return subject, State(subject.model, stage.settings.optimizer, fp16=fp16)


def load_model_of(stage: Stage) -> Subject:
    """The model alone, for a stage whose State holds more than it."""
    settings = stage.settings
    subject = load_subject(
        settings.model,
        precision=settings.precision,
        device=settings.device,
        lora=settings.lora,
        recompute=settings.recompute,
        seed=settings.seed,
        start=str(stage.latest or ""),
    )
    if stage.latest is not None and settings.lora.rank:
        load_adapter(subject.model, stage.latest, subject.digest)
    return subject


def same_start(stage: Stage, subject: Subject, what: str = "its reference") -> None:
    """Hold a continued run to the weights it began with, where it asks for them still."""
    if stage.run and stage.run.config()["start_digest"] != subject.digest:
        raise UserError(
            f"{stage.run.path} was started from other weights than {stage.settings.model} holds now, and they are "
            f"{what}. Put them back, or start a new run from its checkpoint with --model {stage.latest}."
        )


def run_stage(
    stage: Stage,
    subject: Subject,
    state: State,
    source: Source,
    scorer: Scorer,
    method: Method,
    *,
    steps: int,
    config: dict[str, Any],
    lines: Sequence[tuple[str, str]] = (),
    mean_context: float,
    evaluate: Callable[[], Metrics] | None = None,
    opened: Callable[[Run, int], None] | None = None,
    finding: Callable[[Run], str] | None = None,
    part: str = "",
) -> Path:
    """Train to `steps` and return the run folder.

    `config` joins the settings in config.json and holds at least `data_digest`, which a resumed run is held
    to, and `loss`, what is minimised in words. `lines` are announced with the rest, `opened` is called with the run
    folder and the steps done before the first step, `finding` says at the end
    in a sentence what the run's metrics show. `part` is how the names of the subject's weights begin in the state,
    where that holds more.
    """
    settings = stage.settings
    config = {
        "command": stage.command,
        "settings": to_dict(settings),
        "start_digest": subject.digest,
        "precision": str(subject.dtype).removeprefix("torch."),
        "device": str(subject.device),
        "steps": steps,
        **config,
    }
    run = _begin(stage, config)
    if stage.latest is None:
        start_masters(state, settings.model, part)
    else:
        load_checkpoint(stage.latest, state)
        if dist.rank() == 0:
            sweep(run.path / "checkpoints")
            run.rewind(state.step)
    if opened is not None:
        opened(run, state.step)
    _announce(run, settings.model, subject, state, config, lines)
    observer = Observer(run, subject.model.config, subject.dtype, subject.device, mean_context)

    def save(state: State) -> None:
        if dist.rank() == 0:
            save_checkpoint(run, state, subject.write, keep=settings.keep)
        dist.wait()

    try:
        with observing(observer, steps, settings.trackers, config) as observe:
            train(
                state, source, scorer, method, settings.optimizer,
                steps=steps, seed=settings.seed, device=subject.device, observe=observe,
                evaluate=evaluate, evaluate_every=settings.eval_every,
                save=save, save_every=settings.save_every,
            )  # fmt: skip
    except RunStopped as stop:
        _close(run, "stopped" if stop.code == 130 else "failed", str(stop))
        remedy = f" Continue with: rung {stage.command} --resume {run.path}" if stop.code == 130 else ""
        raise RunStopped(str(stop) + remedy, stop.code) from None
    except BaseException as error:
        _close(run, "failed", f"{type(error).__name__}: {error}")
        raise
    said = finding(run) if finding else ""
    _close(run, "finished", f"did every step asked for{'; ' + said if said else ''}")
    if dist.rank() == 0:
        tell = partial(console.print, highlight=False, markup=False, soft_wrap=True)
        tell(f"finished {steps} steps; model in {run.latest()}")
        if said:
            tell(f"finding  {said}")
    return run.path


def _begin(stage: Stage, config: dict[str, Any]) -> Run:
    """Make the folder of a new run, or hold a continued one to the data it was started on."""
    if stage.run is None:
        out = dist.first_rank_says(
            stage.settings.out or f"runs/{stage.command}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
        return Run.create(out, config) if dist.rank() == 0 else Run(Path(out))
    was, now = stage.run.config()["data_digest"], config["data_digest"]
    if was != now:
        raise UserError(
            f"{stage.run.path} was started on data with digest {was[:12]}, and the same files now give {now[:12]}. "
            f"Put the old rows back, or start a new run from its checkpoint with --model {stage.latest}."
        )
    return stage.run


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


def _announce(
    run: Run,
    model: str,
    subject: Subject,
    state: State,
    config: dict[str, Any],
    more: Sequence[tuple[str, str]],
) -> None:
    """What this run will do, in numbers, before it does it."""
    if dist.rank() > 0:
        return
    trained = sum(w.numel() for w in state.masters.weights.values())
    total = sum(p.numel() for p in state.model.parameters())
    lines = [
        ("run", f"{run.path}" + (f", resumed after step {state.step}" if state.step else "")),
        (
            "model",
            f"{model}: {total / 1e6:.1f} M weights, {trained / 1e6:.1f} M trained, "
            f"{config['precision']} with float32 masters on {subject.device}",
        ),
        *more,
        ("loss", config["loss"]),
    ]
    text = "\n".join(f"{name:8} {value}" for name, value in lines)
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def check_context(model: str, max_length: int) -> None:
    """Refuse documents longer than the model's positions before any row is read."""
    context = read_config(resolve(model)).get("max_position_embeddings")
    if context and max_length > context:
        raise UserError(
            f"--max-length {max_length} exceeds the context of {model}, {context} tokens. "
            f"Write --max-length {context} or less."
        )


def held_out_places(sizes: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Hold out a share of each file, chosen by the seed: places kept, places held out, sizes that are left."""
    if not 0 < share < 1:
        raise UserError(
            f"--eval-share is {share}, and it is a share between 0 and 1. Write for example 0.05."
        )
    generator = torch.Generator().manual_seed(seed)
    kept: list[int] = []
    held_out: list[int] = []
    left, start = [], 0
    for size in sizes:
        order = torch.randperm(size, generator=generator).tolist()
        cut = max(round(size * share), 1)
        if cut >= size:
            raise UserError(
                f"--eval-share {share} of a file with {size} examples leaves none to train on. Lower it."
            )
        held_out += [start + i for i in sorted(order[:cut])]
        kept += [start + i for i in sorted(order[cut:])]
        left.append(size - cut)
        start += size
    return kept, held_out, left


def micro_tokens(asked: int | None, longest: int, device: torch.device) -> int:
    """What goes through the model at once: as asked, else what keeps the device busy, and any one document."""
    return asked or max(longest, 16384 if device.type == "cuda" else 1024)
