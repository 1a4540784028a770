"""THE loop: the only place that calls backward and step.

A source yields the micro-batches of each step, a scorer turns one into what the policy says of it, a
method turns that into a Loss. Sums and counts are added over micro-batches and ranks and divided once,
so packing, accumulation and the number of ranks cannot change the gradient. Everything random in a step
follows from (seed, step), and the source is a function of the step: what must be saved to resume
bit for bit is `State` and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from rung import dist
from rung.batch import Batch, Loss, TokenScores
from rung.errors import RunStopped
from rung.interrupt import interruptible
from rung.memory import give_back, peak_memory
from rung.metrics import derived
from rung.optimizer import Average, LossScale, Masters, Stepper, learning_rate
from rung.settings import Optimizer

Method = Callable[[TokenScores, Batch], Loss]
Scorer = Callable[[Batch], TokenScores]
Metrics = dict[str, float]


class Source(Protocol):
    def step(self, step: int) -> list[Batch]:
        """This rank's micro-batches of optimizer step `step`; the same for the same step, always."""
        ...

    def metrics(self, step: int) -> Metrics:
        """What it has to say of step `step`, once its batches were made."""
        ...


class State:
    """Everything a step changes: weights, optimizer, loss scale, average, how far we are."""

    def __init__(
        self,
        model: nn.Module,
        settings: Optimizer,
        *,
        fp16: bool = False,
        factors: Mapping[str, float] | None = None,
    ):
        """`factors` are those of `optimizer.Stepper`: parts of the model that learn at another rate."""
        self.model = model
        self.masters = Masters(model)
        self.stepper = Stepper(self.masters, settings, factors)
        self.scale = LossScale(fp16)
        self.average = Average(self.masters, settings.average)
        self.step = 0  # steps done
        self.tokens = 0  # tokens read, over all ranks


@dataclass
class Totals:
    """Sums over the micro-batches of a step, added over ranks once."""

    numbers: dict[str, float] = field(default_factory=dict)
    maxima: dict[str, float] = field(default_factory=dict)

    def add(self, loss: Loss, batch: Batch) -> None:
        parts: dict[str, float] = {"sum": float(loss.sum.detach()), "count": loss.count}
        parts |= {"tokens": len(batch.token_ids_N), "trained": int(batch.trained_N.sum())}
        for name, (total, count) in loss.metrics.items():
            parts |= {f"sum/{name}": total, f"count/{name}": count}
        for name, value in parts.items():
            self.numbers[name] = self.numbers.get(name, 0.0) + value
        for name, value in loss.maxima.items():
            self.maxima[name] = max(value, self.maxima.get(name, value))

    def reduce(self) -> None:
        self.numbers = dist.add_numbers(self.numbers)
        self.maxima = dist.largest_numbers(self.maxima)

    def means(self) -> Metrics:
        n = self.numbers
        named = {
            k.removeprefix("sum/"): n[k] / n[k.replace("sum/", "count/")] for k in n if k.startswith("sum/")
        }
        return {"loss": n["sum"] / n["count"], **named, **derived(named), **self.maxima}


def train(
    state: State,
    source: Source,
    scorer: Scorer,
    method: Method,
    settings: Optimizer,
    *,
    steps: int,
    seed: int = 0,
    device: str | torch.device = "cpu",
    observe: Callable[[int, Metrics], None],
    evaluate: Callable[[], Metrics] | None = None,
    evaluate_every: int = 0,
    save: Callable[[State], None],
    save_every: int = 0,
) -> None:
    """Take `state` from where it is to `steps` optimizer steps. Saves at the end, and when interrupted.

    `observe` receives the metrics of each finished step. Raises RunStopped with code 130 after Ctrl-C, and
    with code 1 when a loss or gradient is not finite, in which case nothing is saved over the last good
    checkpoint.
    """
    with interruptible() as interrupt:
        while state.step < steps:
            step = state.step
            torch.manual_seed(seed * 1_000_003 + step * dist.world() + dist.rank())
            metrics = _step(state, source, scorer, method, settings, step, steps, device)
            state.step += 1
            last, due = state.step == steps, evaluate_every and state.step % evaluate_every == 0
            if evaluate is not None and (due or last):
                metrics |= evaluate()
            observe(state.step, metrics)
            stop = dist.any_rank(interrupt.asked)
            if last or stop or (save_every and state.step % save_every == 0):
                save(state)
            if stop and not last:
                raise RunStopped(
                    f"Stopped by a signal after step {state.step} of {steps}; saved, can be resumed.", 130
                )


def _step(state: State, source, scorer, method, settings, step: int, steps: int, device) -> Metrics:
    """One optimizer step: read, score and back-propagate each micro-batch, divide, clip, move the weights."""
    clock = Clock()
    batches = source.step(step)
    give_back()  # what sampling has used
    clock.lap("data")
    state.model.train()
    totals = Totals()
    for batch in batches:
        batch = batch.to(device)
        scores = scorer(batch)
        loss = method(scores, batch)
        _must_be_finite(loss.sum, scores, batch, step)
        clock.lap("forward")
        (loss.sum * state.scale.value).backward()
        totals.add(loss, batch)
        clock.lap("backward")
    totals.reduce()
    norm = _finish_gradients(state, totals.numbers["count"], settings.clip)
    if state.scale.accept(math.isfinite(norm)):
        _norm_must_be_finite(norm, step, batches)
        rate = learning_rate(settings, step, steps)
        state.stepper.step(rate)
        state.average.update()
    else:
        rate = 0.0  # an fp16 overflow: the loss scale was halved, the step is skipped and said to be
    state.masters.clear_gradients()
    give_back()
    clock.lap("update")
    state.tokens += int(totals.numbers["tokens"])
    return {
        **totals.means(),
        "grad_norm": norm,
        "learning_rate": rate,
        **source.metrics(step),
        "num_tokens": state.tokens,
        "step_tokens": totals.numbers["tokens"],
        "trained_tokens": totals.numbers["trained"],
        "supervised_share": totals.numbers["trained"] / totals.numbers["tokens"],
        "tokens_per_second": totals.numbers["tokens"] / clock.total(),
        "step_seconds": clock.total(),
        **{f"{name}_seconds": seconds for name, seconds in clock.laps.items()},
        "memory": peak_memory(device),
        **({"loss_scale": state.scale.value} if state.scale.enabled else {}),
    }


def _finish_gradients(state: State, count: float, clip: float) -> float:
    """Add over ranks, divide once by the global count, clip; returns the norm before clipping."""
    gradients: list[Tensor] = state.masters.gradients(complete=dist.world() > 1)
    if count == 0:
        raise RunStopped(
            "No token of this step is trained, so its loss is undefined. Check the data's masks.", 1
        )
    dist.add_tensors(gradients)
    divisor = count * state.scale.value
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))) / divisor
    share = min(1.0, clip / (norm + 1e-6)) if clip and math.isfinite(norm) else 1.0
    torch._foreach_mul_(gradients, share / divisor)
    return norm


class Clock:
    """Where a step's wall time went: the laps add up to the whole."""

    def __init__(self) -> None:
        self.began = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self.last
        self.last = now

    def total(self) -> float:
        return self.last - self.began


def _must_be_finite(loss_sum: Tensor, scores: TokenScores, batch: Batch, step: int) -> None:
    if math.isfinite(float(loss_sum.detach())):
        return
    bad = torch.unique(scores.document_M[~scores.logprob_M.isfinite()]).tolist()
    rows = ", ".join(batch.origins[i] for i in bad or range(len(batch)))
    raise RunStopped(
        f"The loss of step {step + 1} is {float(loss_sum.detach())}, from {rows}. Nothing was saved over the last good "
        "checkpoint. Lower --optimizer.learning-rate, check those rows, or train in --precision fp32.",
        1,
    )


def _norm_must_be_finite(norm: float, step: int, batches: list[Batch]) -> None:
    if not math.isfinite(norm):
        rows = ", ".join(origin for batch in batches for origin in batch.origins)
        raise RunStopped(
            f"The gradient norm of step {step + 1} is {norm} over rows {rows}. Nothing was saved over the last good "
            "checkpoint. Lower --optimizer.learning-rate or train in --precision fp32.",
            1,
        )
