"""Was anything learned? The first third of the run against the last, with an interval.

RL: mean reward of the groups; a gain is counted in the reward's own range, worst to best seen. Otherwise: the loss
of the steps, counted in what it was at first. H0: the true gain is at least `LITTLE` of that. "Nothing learned" is that
Welch's interval lies below it as a whole, which a run that learned that much suffers with probability at most the
level. A short run has a wide interval and hears only that nobody can tell.
"""

from __future__ import annotations

import numpy as np

from rung.diagnose.health import Finding
from rung.diagnose.run import LEVEL, Look, Trace
from rung.diagnose.statistics import change, thirds

NAME = "learning"
LITTLE_REWARD, LITTLE_LOSS, FEWEST = 0.05, 0.01, 8
REWARD_REMEDY = (
    "look at rung rollouts RUN --sort reward: can the model do it at all, does the reward tell attempts apart? raise "
    "--optimizer.learning-rate or the number of rounds, or give easier tasks"
)
LOSS_REMEDY = (
    "raise --optimizer.learning-rate or the steps; look at what is trained (rung data show): few trained tokens or rows "
    "that the model knows already teach nothing"
)


def learning(trace: Trace, level: float = LEVEL) -> Look:
    if trace.store is not None:
        return from_rewards(trace, level)
    steps, losses = trace.series("loss")
    if "reward" in (known := {name for row in trace.rows for name in row}) or "round" in known:
        return Look(
            NAME, unseen="no rollouts were kept, and the loss of a policy gradient says nothing of learning"
        )
    keep = np.isfinite(losses)
    steps, losses = steps[keep], losses[keep]
    early, late = thirds(losses)
    if len(early) < FEWEST:
        return Look(NAME, unseen=f"{len(losses)} steps with a loss, and {3 * FEWEST} are needed")
    rise, low, high = change(early, late, level)
    saw = f"loss {early.mean():.3f} at first, {late.mean():.3f} at last: {interval(rise, low, high)}"
    if low <= -LITTLE_LOSS * abs(early.mean()):
        return Look(NAME, saw)
    return found(saw, int(steps[-1]), "step", LOSS_REMEDY)


def from_rewards(trace: Trace, level: float) -> Look:
    count = len(trace.rounds) // 3
    early, late = (
        means(trace, part) for part in (trace.rounds[:count], trace.rounds[len(trace.rounds) - count :])
    )
    if min(len(early), len(late)) < FEWEST:
        return Look(
            NAME,
            unseen=f"{len(early)} and {len(late)} groups with a reward at first and last; {FEWEST} are needed",
        )
    assert trace.store is not None
    rewards = [row["reward"] for row in trace.store.scan(["reward"]) if row["reward"] is not None]
    best, worst = max(rewards), min(rewards)
    gain, low, high = change(early, late, level)
    saw = f"reward {np.mean(early):.3f} at first, {np.mean(late):.3f} at last: {interval(gain, low, high)}"
    if best == worst:
        return Look(
            NAME, f"every reward is {best:g}", "a reward that is always the same cannot be learned from"
        )
    little = LITTLE_REWARD * (best - worst)
    if high >= little or np.mean(early) > best - 2 * little:
        return Look(NAME, saw)
    return found(
        f"{saw}, where rewards go from {worst:g} to {best:g}", trace.rounds[-1], "round", REWARD_REMEDY
    )


def means(trace: Trace, rounds: list[int]) -> list[float]:
    """Mean reward of each group that has one."""
    groups = (
        [row["reward"] for row in group.rows if row["reward"] is not None]
        for group in trace.groups(rounds, ["reward"])
    )
    return [float(np.mean(rewards)) for rewards in groups if rewards]


def interval(change: float, low: float, high: float) -> str:
    return f"{change:+.3f}, between {low:+.3f} and {high:+.3f}"


def found(evidence: str, at: int, unit: str, remedy: str) -> Look:
    return Look(NAME, evidence, "", (Finding("nothing learned", "warn", at, evidence, remedy, unit),))
