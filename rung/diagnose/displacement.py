"""Likelihood displacement: the margin between two answers grows although the chosen one gets less likely.

Read are chosen_change and rejected_change, log-prob per token less the start's. H0: over the last quarter of the
steps the chosen answers are on average at most `FELL` below the start. A step has pairs of its own, so the steps' means
are taken as independent (Student's interval). Where held-out pairs were measured, the last measurement must agree.
"""

from __future__ import annotations

import numpy as np

from rung.diagnose.health import Finding
from rung.diagnose.rules import Severity
from rung.diagnose.run import LEVEL, Look, Trace
from rung.diagnose.statistics import t_quantile

NAME = "likelihood of the chosen answers"
FELL, GRAVE, FEWEST = 0.01, 0.5, 5  # nats per token, of which the healthy range ends at GRAVE; steps
DISPLACED_REMEDY = (
    "use rung rpo or rung dpop, which keep the chosen likely, or drop the pairs behind it (rung data ches)"
)
UNLEARNED_REMEDY = "lower --optimizer.learning-rate and look at the pairs (rung data show)"


def displacement(trace: Trace, level: float = LEVEL) -> Look:
    steps, chosen = trace.series("chosen_change")
    _, rejected = trace.series("rejected_change")
    _, held_out = trace.series("eval_chosen_change")
    if not len(chosen) or len(rejected) != len(chosen):
        return Look(NAME, unseen="no pairs of answers were trained on")
    count = max(len(chosen) // 4, 1)
    last, last_rejected = chosen[-count:], float(rejected[-count:].mean())
    mean = float(last.mean())
    saw = f"chosen {mean:+.3f} and rejected {last_rejected:+.3f} nats per token over the last {count} steps"
    if len(held_out):
        saw += f", chosen {held_out[-1]:+.3f} on held-out pairs"
    if count < FEWEST:
        return Look(NAME, saw, f"a quarter of the run is {count} steps, and {FEWEST} are needed")
    highest = mean + t_quantile(count - 1, level) * float(last.std(ddof=1)) / count**0.5
    if not highest < -FELL or (len(held_out) and not held_out[-1] < -FELL):
        return Look(NAME, saw)
    both = trace.series("both_fall")[1]
    evidence = saw + (f"; both answers fell in {both[-count:].mean():.0%} of the pairs" if len(both) else "")
    name, remedy = "likelihood displacement", DISPLACED_REMEDY
    if last_rejected >= mean:
        evidence += "; the rejected did not fall further, so the preference is not learned either"
        remedy = UNLEARNED_REMEDY
    severity: Severity = "stop" if highest < -GRAVE else "warn"
    return Look(NAME, saw, "", (Finding(name, severity, int(np.max(steps)), evidence, remedy, "step"),))
