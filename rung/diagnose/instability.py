"""Instability: numbers that are none, spikes of gradient norm and loss, a loss that left where it was, a loss scale
that keeps falling.

    not finite    any loss that is no number; any norm too, but for fp16 steps that were skipped; and the
                  end of a run that stopped for one, which is in its status and not in its rows          (stop)
    spikes        a norm over `NORM_TIMES` the median of the `WINDOW` steps before, or a loss over it by
                  `LOSS_SPREADS` times their median distance from it; H0: at most `TOLERATED` of the steps
    divergence    the last tenth of the losses is above an earlier one by `WORSE` nats and a tenth of it:
                  Welch's interval, each earlier tenth at an equal share of the level                     (stop)
    loss scale    in the second half of the run over `TOLERATED` of the steps overflowed, or it is below 1

If each step, given those before, leaps that far with probability at most `TOLERATED`, then the number of leaps is
stochastically at most binomial, whatever the noise is like and however its size drifts: the test is the binomial's
tail. The level is shared out equally.
"""

from __future__ import annotations

import math
import re

import numpy as np

from rung.diagnose.health import Finding
from rung.diagnose.rules import Severity
from rung.diagnose.run import LEVEL, Look, Trace
from rung.diagnose.statistics import at_least, change

NAME = "stability"
WINDOW, NORM_TIMES, LOSS_SPREADS, TOLERATED = 32, 8.0, 8.0, 0.01
TENTHS, FEWEST, WORSE = 10, 6, 0.1
ENDED_BY = re.compile(r"(?:loss|gradient norm) of step (\d+) is [-+]?(?:nan|inf)")
CALM = (
    "lower --optimizer.learning-rate or lengthen --optimizer.warmup, clip lower (--optimizer.clip), and read the rows of "
    "those steps"
)
BACK = "go back to a checkpoint before it, with a lower --optimizer.learning-rate and a longer --optimizer.warmup"
SCALE_REMEDY = "train in --precision bf16 or fp32: float16 cannot hold these gradients"


def instability(trace: Trace, level: float = LEVEL) -> Look:
    steps, losses = trace.series("loss")
    if not len(steps):
        return Look(NAME, unseen="no step was logged", findings=tuple(not_finite(trace)))
    share, found = level / 4, list[Finding]()
    found += not_finite(trace)
    found += norm_spikes(trace, share)
    policy_gradient = bool(len(trace.series("round")[0]))  # its loss is no measure of anything
    if not policy_gradient:
        found += loss_spikes(steps, losses, share)
        found += divergence(steps, losses, share)
    found += falling_scale(trace, share)
    norms = finite(trace.series("grad_norm")[1])
    saw = f"{len(steps)} steps"
    if len(norms):
        saw += f", gradient norm {np.median(norms):.3g} in the middle, {norms.max():.3g} at most"
    unseen = []
    if len(steps) <= WINDOW:
        unseen.append(f"spikes need more than {WINDOW} steps")
    if not policy_gradient and len(losses) < TENTHS * FEWEST:
        unseen.append(f"a loss that rises for good needs {TENTHS * FEWEST}")
    return Look(NAME, saw, "; ".join(unseen), tuple(found))


def finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def finding(severity: Severity, step: int, evidence: str, remedy: str) -> Finding:
    return Finding("instability", severity, int(step), evidence, remedy, "step")


def not_finite(trace: Trace) -> list[Finding]:
    for row in trace.rows:
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(row.get(name, 0.0))]
        skipped = row.get("learning_rate") == 0.0 and "loss_scale" in row
        if bad and not (skipped and bad == ["grad_norm"]):
            return [finding("stop", int(row["step"]), f"{bad[0]} is {row[bad[0]]}", BACK)]
    end = ENDED_BY.search(trace.ending)
    return [finding("stop", int(end[1]), trace.ending, BACK)] if end else []


def norm_spikes(trace: Trace, level: float) -> list[Finding]:
    steps, norms = trace.series("grad_norm")
    keep = np.isfinite(norms)
    steps, norms = steps[keep], norms[keep]
    spikes = [
        (middle := float(np.median(norms[i - WINDOW : i]))) > 0 and norms[i] > NORM_TIMES * middle
        for i in range(WINDOW, len(norms))
    ]
    return counted("the gradient norm", f"{NORM_TIMES:g} times the median of the", spikes, steps, level)


def loss_spikes(steps: np.ndarray, losses: np.ndarray, level: float) -> list[Finding]:
    keep = np.isfinite(losses)
    steps, losses = steps[keep], losses[keep]
    spikes = []
    for i in range(WINDOW, len(losses)):
        before = losses[i - WINDOW : i]
        middle = np.median(before)
        spread = np.median(np.abs(before - middle))
        spikes.append(bool(losses[i] > middle + LOSS_SPREADS * spread and losses[i] > 1.2 * middle))
    return counted(
        "the loss", f"{LOSS_SPREADS:g} times the usual distance above the median of the", spikes, steps, level
    )


def counted(what: str, limit: str, spikes: list[bool], steps: np.ndarray, level: float) -> list[Finding]:
    at = [int(steps[WINDOW + i]) for i, spike in enumerate(spikes) if spike]
    if at_least(len(at), len(spikes), TOLERATED) > level:
        return []
    evidence = (
        f"{what} was over {limit} {WINDOW} steps before in {len(at)} of {len(spikes)} steps "
        f"({TOLERATED:.0%} is tolerated), among them {', '.join(map(str, at[:4]))}"
    )
    return [finding("warn", at[-1], evidence, CALM)]


def divergence(steps: np.ndarray, losses: np.ndarray, level: float) -> list[Finding]:
    keep = np.isfinite(losses)
    steps, losses = steps[keep], losses[keep]
    size = len(losses) // TENTHS
    if size < FEWEST:
        return []
    blocks = [losses[i * size : (i + 1) * size] for i in range(TENTHS - 1)]
    last = losses[-size:]
    for i, block in sorted(enumerate(blocks), key=lambda pair: float(pair[1].mean())):
        rise, low, _ = change(block, last, level / len(blocks))
        if low > max(WORSE, 0.1 * abs(block.mean())):
            evidence = (
                f"the loss was {block.mean():.3f} over steps {steps[i * size]} to {steps[(i + 1) * size - 1]} and is "
                f"{last.mean():.3f} over the last {size}: {rise:+.3f}, at least {low:+.3f}"
            )
            return [finding("stop", steps[-1], evidence, BACK)]
    return []


def falling_scale(trace: Trace, level: float) -> list[Finding]:
    steps, scales = trace.series("loss_scale")
    if len(scales) < 2:
        return []
    if scales[-1] < 1:
        return [finding("stop", steps[-1], f"the loss scale fell to {scales[-1]:g}", SCALE_REMEDY)]
    late = scales[len(scales) // 2 :]
    overflows = int((np.diff(late) < 0).sum())
    if at_least(overflows, len(late) - 1, TOLERATED) <= level:
        skipped = f"{overflows} of the last {len(late) - 1} steps overflowed and were skipped"
        evidence = f"{skipped}, the loss scale is {scales[-1]:g}"
        return [finding("warn", steps[-1], evidence, SCALE_REMEDY)]
    return []
