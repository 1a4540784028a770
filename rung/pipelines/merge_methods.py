"""Merge methods by name: which options each takes, and one function of blocks for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from math import isfinite
from typing import Any

from rung.errors import UserError
from rung.merge.dare import dare, dare_ties
from rung.merge.linear import ema_weights, linear, must_be_share, shares_of, wise_ft_weights
from rung.merge.slerp import slerp
from rung.merge.task_arithmetic import task_arithmetic
from rung.merge.ties import ties
from rung.pipelines.merge import Method


@dataclass(frozen=True)
class Kind:
    build: Callable[..., Method]  # (number of models, options) -> method
    options: tuple[str, ...]
    based: bool = False  # blocks begin with the base
    two: bool = False  # exactly two models


def mean(count: int, weights: Sequence[float] | None = None) -> Method:
    """The weights or, without them, equal parts: a uniform soup, or an average over checkpoints."""
    shares = shares_of(weights or [1 / count] * count)
    return lambda blocks, dice: linear(blocks, weights=shares)


def wise_ft(count: int, alpha: float = 0.5) -> Method:
    return mean(count, wise_ft_weights(alpha))


def ema(count: int, decay: float = 0.8) -> Method:
    return mean(count, ema_weights(count, decay))


def arc(count: int, alpha: float = 0.5) -> Method:
    must_be_share(alpha)
    return lambda blocks, dice: slerp(blocks, alpha=alpha)


def on_base(function: Callable[..., Any]) -> Callable[..., Method]:
    def build(count: int, weights: Sequence[float] | None = None, **options: float) -> Method:
        merged = partial(function, weights=weights or [1.0] * count, **options)
        takes_dice = "seed" in signature(function).parameters
        return lambda blocks, dice: merged(blocks, seed=dice) if takes_dice else merged(blocks)

    return build


KINDS = {
    "linear": Kind(mean, ("weights",)),
    "wise-ft": Kind(wise_ft, ("alpha",), two=True),
    "slerp": Kind(arc, ("alpha",), two=True),
    "ema": Kind(ema, ("decay",)),
    "task-arithmetic": Kind(on_base(task_arithmetic), ("weights", "scale"), based=True),
    "ties": Kind(on_base(ties), ("weights", "scale", "density"), based=True),
    "dare": Kind(on_base(dare), ("weights", "scale", "density"), based=True),
    "dare-ties": Kind(on_base(dare_ties), ("weights", "scale", "density"), based=True),
}


def method_named(name: str, models: Sequence[str], base: str, options: dict[str, Any]) -> Method:
    """`options` are those the user gave; the rest have the method's own defaults."""
    kind = KINDS[name]
    extra = [key for key in options if key not in kind.options]
    if extra:
        raise UserError(
            f"{name} has no {extra[0]}; it takes {', '.join(kind.options)}"
            + (" and base" if kind.based else "")
        )
    if kind.based and not base:
        raise UserError(
            f"{name} adds what training changed to the model it started from: write --base MODEL, the common start"
        )
    if base and not kind.based:
        raise UserError(
            f"{name} has no base, it is a mean of the models alone. Name the base as one of the models (with "
            "wise-ft as the first), or choose task-arithmetic, ties, dare or dare-ties"
        )
    needed = "exactly two models, the start and the tuned one" if kind.two else "two models or more"
    if len(models) != 2 if kind.two else len(models) < (1 if kind.based else 2):
        raise UserError(
            f"{name} merges {needed if not kind.based else 'one model or more'}; {len(models)} were given"
        )
    weights = options.get("weights")
    if weights is not None and (len(weights) != len(models) or not all(isfinite(w) for w in weights)):
        raise UserError(
            f"{len(weights)} weights ({' '.join(f'{w:g}' for w in weights)}) for {len(models)} models; write one "
            "finite number for each, in the order of the models" + (", none for the base" * kind.based)
        )
    return kind.build(len(models), **options)
