"""`rung merge` and `rung merge sweep`: weights of several models become one, and what the way between two costs.

An adapter and its base are another matter: `rung merge-adapter` folds a correction into the weights it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from rung.errors import UserError

OPTIONS = ("weights", "alpha", "density", "scale", "decay")


@dataclass(frozen=True)
class Merge:
    """Merge models that were trained from one start into one model folder.

    linear           weighted mean; without weights a uniform soup, or an average over checkpoints
    wise-ft          (1 - alpha) first + alpha second: the start and what it was tuned into
    slerp            the same along the arc between them
    ema              mean of checkpoints, oldest first, with exponentially falling weights
    greedy-soup      models join the mean one by one, where a validation metric does not suffer
    task-arithmetic  base + scale * sum of weight * (model - base)
    ties             the same with small entries trimmed and signs elected
    dare, dare-ties  the same with entries dropped at random and the rest scaled up
    """

    models: tyro.conf.Positional[tuple[str, ...]]
    """Names, folders, run folders, hub ids or .gguf files; of checkpoints the oldest first."""
    out: str = ""
    """The folder to write; it must not exist or be empty."""
    method: Literal[
        "linear", "wise-ft", "slerp", "ema", "greedy-soup", "task-arithmetic", "ties", "dare", "dare-ties"
    ] = "linear"
    """How."""
    base: str = ""
    """The common start, for task-arithmetic, ties, dare and dare-ties."""
    weights: tuple[float, ...] = ()
    """One for each model; they add up to 1 for linear, and are 1 each by default on a base."""
    alpha: float | None = None
    """Place between the two models of wise-ft and slerp: 0 is the first, 1 the second; 0.5 by default."""
    density: float | None = None
    """Share of a task vector's entries that is kept: 0.2 by default for ties, 0.1 for dare and dare-ties."""
    scale: float | None = None
    """Factor on what is added to the base; 1 by default."""
    decay: float | None = None
    """Of ema: how much of the average stays at each newer checkpoint; 0.8 by default."""
    seed: int = 0
    """Of what dare drops."""
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep"
    """Type of the merged weights; keep is that of the model whose tokenizer is taken."""
    align_tokens: bool = False
    """Let vocabularies differ: rows of embedding and head are brought together by their token's string."""
    validation: str = ""
    """Of greedy-soup: held-out rows; the metric is their bits per byte."""
    env: str = ""
    """Of greedy-soup, instead: an environment; the metric is accuracy on its held-out tasks."""
    tasks: int = 100
    """How many of the environment's tasks."""
    perplexity: bool = True
    """Measure the merged model's perplexity beside its parents'; this loads them, one at a time."""
    text: str = ""
    """Rows for the perplexity; by default a few short texts."""


@dataclass(frozen=True)
class MergeSweep:
    """Measure models between a start and what it was tuned into: what is gained against what is forgotten.

    Writes a table, sweep.json and sweep.png; points that no other beats in both are marked. The same call goes on
    where it was stopped.
    """

    start: tyro.conf.Positional[str]
    """The model before training."""
    tuned: tyro.conf.Positional[str]
    """The model after."""
    out: str = ""
    """The folder for results; merged models are removed once they are measured."""
    text: str = ""
    """Held-out text that should not be forgotten: JSONL, JSON or Parquet."""
    env: str = ""
    """The new task: an environment, accuracy on its held-out tasks."""
    task: str = ""
    """The new task, instead: held-out rows of it, measured in bits per byte."""
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Places between start (0) and tuned (1)."""
    method: Literal["wise-ft", "slerp"] = "wise-ft"
    """The straight way or the arc."""
    documents: int | None = None
    """The first so many rows of each file; null is all."""
    tasks: int = 100
    """How many of the environment's held-out tasks."""
    samples: int = 1
    """Answers to each task."""
    max_tokens: int = 256
    """Longest answer."""
    seed: int = 0
    """Of the answers."""


def main(settings: Merge) -> int:
    must_have(settings.out and settings.models, "rung merge", "rung merge MODEL MODEL --out FOLDER")
    given: dict[str, Any] = {key: getattr(settings, key) for key in OPTIONS}
    options = {key: list(v) if key == "weights" else v for key, v in given.items() if v not in (None, ())}
    if settings.method == "greedy-soup":
        return soup(settings, options)
    if settings.validation or settings.env:
        raise UserError(
            f"{settings.method} measures nothing; validation and env belong to --method greedy-soup"
        )
    import torch

    from rung.pipelines.merge import merge, plan
    from rung.pipelines.merge_methods import method_named

    method = method_named(settings.method, settings.models, settings.base, options)
    dtype = None if settings.dtype == "keep" else getattr(torch, settings.dtype)
    merging = plan(settings.models, settings.base, align=settings.align_tokens, dtype=dtype)
    names = [parent.name for parent in merging.parents]
    table: list[str] = []

    def check(folder: Path) -> None:
        if settings.perplexity:
            from rung.pipelines.merge_measure import compare_perplexity  # seconds of imports

            table.append(compare_perplexity(folder, names, settings.text))

    lineage = {"method": settings.method, **options}
    merge(merging, method, Path(settings.out), seed=settings.seed, lineage=lineage, check=check)
    count = sum(one.numel for one in merging.reference.tensors.values())
    print(
        f"merged {len(settings.models)} models by {settings.method}, {count / 1e6:.1f} M weights: {settings.out}"
    )
    print(f"tokenizer and template of {merging.reference.name}; every weight is finite")
    print("\n".join(table) if table else "perplexity was not measured")
    return 0


def soup(settings: Merge, options: dict[str, Any]) -> int:
    must_have(
        len(settings.models) > 1 and bool(settings.validation) != bool(settings.env),
        "greedy-soup",
        "two models or more and either --validation FILE or --env SPEC",
    )
    wrong = [*options, *(key for key in ("base", "text") if getattr(settings, key))]
    wrong += [
        key for key, usual in (("dtype", "keep"), ("align_tokens", False)) if getattr(settings, key) != usual
    ]
    if wrong:
        raise UserError(f"greedy-soup averages models with equal parts and has no {wrong[0]}; leave it out")
    from rung.pipelines.merge_measure import accuracy, brew, documents, scored

    rows = documents(settings.validation) if settings.validation else []

    def measure(folder: Path) -> float:
        if rows:
            return -scored(folder, rows).per_byte().value
        return accuracy(
            folder, settings.env, folder / "answers", tasks=settings.tasks, seed=settings.seed
        ).value

    metric = "minus bits per byte" if rows else "accuracy"
    found = brew(
        settings.models, Path(settings.out), measure, {"method": "greedy-soup", "metric_name": metric}
    )
    for name, value in zip(settings.models, found.alone, strict=True):
        print(f"{name}: {metric} {value:.4f} alone")
    for members, value in found.tried:
        word = "better or equal, kept" if set(members) <= set(found.members) else "worse, left out"
        print(f"with {settings.models[members[-1]]}: {value:.4f}, {word}")
    print(
        f"soup of {len(found.members)} of {len(settings.models)} models, {metric} {found.metric:.4f}: {settings.out}"
    )
    return 0


def sweep(settings: MergeSweep) -> int:
    example = "rung merge sweep START TUNED --text OLD.jsonl --env SPEC (or --task NEW.jsonl) --out FOLDER"
    must_have(settings.out and settings.text, "rung merge sweep", example)
    must_have(bool(settings.env) != bool(settings.task), "rung merge sweep", example)
    if len(set(settings.alphas)) < 2:
        raise UserError("a sweep needs two alphas or more; write for example --alphas 0 0.5 1")
    from rung.eval.report import load_pyplot
    from rung.pipelines.merge_measure import sweep as measure
    from rung.pipelines.merge_measure import sweep_table

    load_pyplot()  # a missing plotting library is told before an hour of measuring
    points = measure(
        settings.start, settings.tuned, Path(settings.out), alphas=sorted(set(settings.alphas)),
        method=settings.method, text=settings.text, task=settings.task, env=settings.env, tasks=settings.tasks,
        samples=settings.samples, max_tokens=settings.max_tokens, most=settings.documents, seed=settings.seed,
    )  # fmt: skip
    print("\n" + sweep_table(points, "gained, bits per byte" if settings.task else "gained, accuracy"))
    print(f"plot   {Path(settings.out) / 'sweep.png'}")
    return 0


def must_have(given: Any, who: str, what: str) -> None:
    if not given:
        raise UserError(f"{who}: write {what}")
