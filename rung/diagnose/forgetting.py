"""Forgetting: held-out tasks that were solved are no longer, whatever the reward does.

Each measurement is a mean of scores in [0, 1] of n tasks, and n is known from below (replay.py). The tasks are the
same each time but the answers are sampled anew, so a test that takes the tasks as drawn too is strict enough. H0: the
last measurement's expectation is at most `LOSS` below that of every earlier one. The best of m - 1 earlier ones is
compared at level / (m - 1) (`fall_beyond`). Reward hacking, which is this while the reward rises, is told by Health.
"""

from __future__ import annotations

import numpy as np

from rung.diagnose.health import Finding
from rung.diagnose.replay import heldout_count
from rung.diagnose.run import LEVEL, Look, Trace
from rung.diagnose.statistics import fall_beyond, normal_tail

NAME = "held-out tasks"
LOSS = 0.03
FORGETTING_REMEDY = (
    "go back to the checkpoint with the best held-out score; lower the learning rate, add a KL term to the start, or mix "
    "in what was forgotten"
)


def forgetting(trace: Trace, level: float = LEVEL) -> Look:
    steps, scores = trace.series("heldout_score")
    keep = np.isfinite(scores)
    steps, scores = steps[keep], scores[keep]
    if not len(scores):
        return Look(NAME, unseen="no held-out tasks were scored")
    best = int(np.argmax(scores))
    count = heldout_count(trace)
    saw = f"{scores[0]:.3f} first, {scores[best]:.3f} best (step {steps[best]}), {scores[-1]:.3f} last"
    if len(scores) < 2 or not count or scores.min() < 0 or scores.max() > 1:
        why = (
            "scored once only (--eval-every)" if len(scores) < 2 else "how many tasks there are is not known"
        )
        return Look(NAME, saw, why)
    chance = normal_tail(fall_beyond(scores[best], scores[-1], count, LOSS))
    if best == len(scores) - 1 or chance > level / (len(scores) - 1):
        return Look(NAME, f"{saw}, of {count} or more tasks")
    fall = f"from {scores[best]:.3f} at step {steps[best]} to {scores[-1]:.3f}"
    evidence = f"the held-out score fell {fall}, of {count} or more tasks"
    return Look(
        NAME, saw, "", (Finding("forgetting", "warn", int(steps[-1]), evidence, FORGETTING_REMEDY, "step"),)
    )
