"""What a run shows and keeps of each step: the progress line, the run folder, trackers, the share of the peak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console

from rung import dist
from rung.machine import matrix_peak
from rung.models.flops import training_flops
from rung.progress import progress
from rung.run import Run
from rung.trackers import open_trackers
from rung.train import Metrics


class Observer:
    """Receives each step's metrics from the loop; only the first rank writes."""

    def __init__(self, run: Run, config: Any, dtype: torch.dtype, device: torch.device, mean_context: float):
        self.run, self.config, self.mean_context = run, config, mean_context
        self.peak = matrix_peak(dtype, device) * dist.world() if hasattr(config, "heads") else 0.0

    def share_of_peak(self, metrics: Metrics) -> Metrics:
        if not self.peak:
            return {}
        work = training_flops(
            self.config, metrics["step_tokens"], metrics["trained_tokens"], self.mean_context
        )
        return {"mfu": work / metrics["step_seconds"] / self.peak}


@contextmanager
def observing(
    observer: Observer, steps: int, trackers: Sequence[str], settings: dict[str, Any]
) -> Iterator[Any]:
    """`with observing(...) as observe:` gives the loop its `observe`, and closes trackers at the end."""
    if dist.rank() > 0:
        yield lambda step, metrics: None
        return
    opened = open_trackers(trackers, observer.run.path, settings)
    try:
        with progress(steps, Console(stderr=True)) as line:

            def observe(step: int, metrics: Metrics) -> None:
                metrics = metrics | observer.share_of_peak(metrics)
                observer.run.log(step, metrics)
                line.update(step, metrics)
                for tracker in opened:
                    tracker.log(step, metrics)

            yield observe
    finally:
        for tracker in opened:
            tracker.finish()
