"""Memorisation: the loss on held-out rows rises while the loss on the training rows goes on falling.

The held-out rows are the same each time, so what moves their loss from one evaluation to the next is the training.
H0: up to noise the held-out loss does not rise. The noise s is estimated from second differences, which a smooth
curve hardly has: s^2 = mean(second difference^2) / 6. The statistic is (lower of the last two - lowest) / s, where
the lowest is that of neighbouring pairs, each by its higher value, so that one outlier does no harm. How large chance
makes it is simulated for a flat curve with independent noise and as many evaluations, the worst case of H0: a falling
curve ends near its lowest point. Named is a rise that chance makes this large with probability at most the level, of
at least `RISE` of the lowest loss, while the training loss did not rise.
"""

from __future__ import annotations

import numpy as np

from rung.diagnose.health import Finding
from rung.diagnose.run import LEVEL, Look, Trace

NAME = "held-out loss"
FEWEST, RISE, SIMULATED = 5, 0.02, 4000
OVERFIT_REMEDY = "keep the checkpoint of the lowest held-out loss, train fewer epochs, lower the learning rate, or add rows"


def overfitting(trace: Trace, level: float = LEVEL) -> Look:
    steps, held_out = trace.series("eval_loss")
    keep = np.isfinite(held_out)
    steps, held_out = steps[keep], held_out[keep]
    if not len(steps):
        return Look(NAME, unseen="no loss on held-out rows (--eval-share or --eval-data, with --eval-every)")
    lowest = int(np.argmin(held_out))
    near, last = training_loss(trace, steps, lowest), training_loss(trace, steps, len(steps) - 1)
    saw = (
        f"{held_out[0]:.3f} first, {held_out[lowest]:.3f} lowest (step {steps[lowest]}), {held_out[-1]:.3f} last; "
        f"the training loss is {last:.3f} by then"
    )
    if len(steps) < FEWEST:
        return Look(
            NAME, saw, f"{len(steps)} evaluations, and {FEWEST} are needed to tell a rise (--eval-every)"
        )
    rise = held_out[-1] - held_out[lowest]
    if rise < RISE * abs(held_out[lowest]) or last > near or by_chance(held_out) > level:
        return Look(NAME, saw)
    worse = " and above where it began, so what the model knew is going" * bool(held_out[-1] > held_out[0])
    evidence = (
        f"the held-out loss rose from {held_out[lowest]:.3f} at step {steps[lowest]} to {held_out[-1]:.3f}{worse}, "
        f"while the training loss went from {near:.3f} to {last:.3f}"
    )
    return Look(
        NAME, saw, "", (Finding("overfitting", "warn", int(steps[-1]), evidence, OVERFIT_REMEDY, "step"),)
    )


def training_loss(trace: Trace, evaluated: np.ndarray, which: int) -> float:
    """Mean over the steps between an evaluation and the one before."""
    steps, losses = trace.series("loss")
    after = evaluated[which - 1] if which else -1
    inside = losses[(steps > after) & (steps <= evaluated[which])]
    return float(inside.mean()) if len(inside) else float("nan")


def by_chance(curve: np.ndarray) -> float:
    """How often a flat curve with noise rises this far above its lowest point, in units of its own noise."""
    flat = np.random.default_rng(0).normal(size=(SIMULATED, len(curve)))
    return float((1 + (rises(flat) >= rises(curve[None])).sum()) / (SIMULATED + 1))


def rises(curves: np.ndarray) -> np.ndarray:
    """(lower of the last two - lowest pair by its higher) / noise of each row."""
    second = np.diff(curves, n=2, axis=1)
    noise = np.sqrt((second**2).mean(axis=1) / 6)
    lowest = np.maximum(curves[:, 1:], curves[:, :-1]).min(axis=1)
    return (curves[:, -2:].min(axis=1) - lowest) / np.maximum(noise, 1e-12)
