"""`Health` over the rounds that a run kept: what the live run said, and more, for the end is known.

The held-out scores are kept as means. Their number is the fewest tasks of which all the means can be shares, at
most those asked for, and each mean is replaced by the scores with that mean that prove least (`extreme_scores`). Bets
on them stay fair: with n' scores instead of n the factor of a round is at most the (n'/n)-th power of the true one,
whose expectation is at most 1 if that of the true one is (Jensen).
"""

from __future__ import annotations

import numpy as np

from rung.diagnose.facts import Facts, facts_of
from rung.diagnose.health import Finding, Health
from rung.diagnose.run import Look, Trace
from rung.diagnose.statistics import common_count, extreme_scores

NAME = "health of the rounds"


def replay(trace: Trace) -> Look:
    if trace.store is None:
        why = "no rollouts were kept: no dead groups, length drift, entropy collapse or reward hacking can be seen"
        return Look(NAME, unseen=why)
    health, findings = Health(), list[Finding]()
    held_out = measurements(trace)
    of_round = {} if trace.setting("staleness") else by_round(trace, "sampler_kl3")
    mismatched = False
    for round in trace.rounds:
        due = [held_out.pop(begun) for begun in sorted(held_out) if begun < round]
        facts = facts_of(
            round,
            trace.store.read(round),
            heldout=due[-1] if due else None,
            mismatch=of_round.get(round),
        )
        mismatched |= facts.mismatch is not None
        findings += health.feed(facts)
    if held_out:  # measured after the last round
        last = held_out[max(held_out)]
        findings += health.feed(Facts(trace.rounds[-1], (), heldout=last))
    unseen = [] if mismatched else ["no log-probs of the trainer: mismatch not seen"]
    if len(measurements(trace)) < 2:
        unseen.append(
            "held-out tasks scored fewer than twice (--eval-every), or not in [0, 1]: reward hacking not seen"
        )
    saw = f"{len(trace.rounds)} rounds: groups, lengths, truncation, entropy, repetition, failures"
    return Look(NAME, saw, "; ".join(unseen), tuple(findings))


def measurements(trace: Trace) -> dict[int, tuple[float, ...]]:
    """Held-out scores by the round that had last begun when they were taken."""
    rows = [row for row in trace.rows if np.isfinite(row.get("heldout_score", np.nan))]
    count = heldout_count(trace)
    if not count or any(not 0 <= row["heldout_score"] <= 1 for row in rows):
        return {}
    begun, found = -1, dict[int, tuple[float, ...]]()
    for row in trace.rows:
        begun = int(row.get("round", begun))
        if np.isfinite(row.get("heldout_score", np.nan)):
            found[begun] = extreme_scores(row["heldout_score"], count)
    return found


def heldout_count(trace: Trace) -> int:
    """At least so many held-out tasks were scored; 0 if that cannot be told, in a run that did not log it."""
    counts = trace.series("heldout_tasks")[1]
    if len(counts):
        return int(min(counts))
    shares = trace.series("heldout_solved")[1]
    scores = trace.series("heldout_score")[1]
    shares = np.concatenate([shares, scores]) if np.array_equal(shares, scores) else shares
    shares = shares[np.isfinite(shares)]
    return common_count(shares, int(trace.setting("test_tasks") or 0)) if len(shares) else 0


def by_round(trace: Trace, name: str) -> dict[int, float]:
    """A metric at the first update of each round, when the weights are still the sampler's."""
    found: dict[int, float] = {}
    for row in trace.rows:
        if name in row and "round" in row:
            found.setdefault(int(row["round"]), row[name])
    return found
