"""Is this run still learning what it should? Findings while it runs, with a false-alarm rate that is known.

Feed `Health` the facts of one round at a time; it returns what it has just established, each finding once:

    health = Health()
    for records in rounds:
        for finding in health.feed(facts_of(number, records, heldout=scores)):
            print(finding)

The level. Every finding is the rejection of a null hypothesis that describes health ("in every round, the expected
share of dead groups is at most 70 %"), by a bet that may be looked at after every round (see evidence.py). There are
eleven rules (rules.py), each tested at level / 22, and two statements on the held-out score (hacking.py), harder to
establish and tested at level / 4, so by the union bound

    P(any finding, ever, in a run where all thirteen nulls hold) <= level = 0.05,

over a run of any length and without a threshold on noise. The nulls allow trends: entropy may fall, length may
grow. What the bound does not promise: that a run breaking a null only a little is reported soon. Rules about change
are relative to the first five rounds as observed; their nulls say so.

`state` and `Health.restore` carry the evidence through a checkpoint, as plain JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from rung.diagnose.evidence import Bet
from rung.diagnose.facts import Facts, GroupFacts
from rung.diagnose.hacking import Divergence, Reference, evidence_of
from rung.diagnose.rules import RULES, START_ROUNDS, Rule, Severity, Start, start_of

LEVEL = 0.05
RECENT = 8
HACKING_REMEDY = (
    "read the best-paid rollouts (rung rollouts RUN --sort reward); reward what the held-out verifier measures, bound "
    "or drop the part that rose, raise the KL penalty, or go back to the checkpoint before the two parted"
)


@dataclass(frozen=True)
class Finding:
    """Something is wrong with the run: what, how it is known, what to do."""

    name: str
    severity: Severity
    round: int
    evidence: str
    remedy: str
    unit: str = "round"  # what `round` counts

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.severity}, {self.unit} {self.round}: {self.evidence}. Remedy: {self.remedy}"
        )


@dataclass
class Watch:
    """One rule's bet, and the mean items of the last rounds, to say how bad it is."""

    bet: Bet
    recent: list[float] = field(default_factory=list)


@dataclass
class Health:
    """The evidence so far. `level` bounds the chance of any false finding in a whole run."""

    level: float = LEVEL
    rounds: int = 0
    start: Start = field(default_factory=Start)
    opening: list[GroupFacts] = field(default_factory=list)  # groups of the first rounds, then empty
    watches: dict[str, Watch] = field(default_factory=dict)  # "name/severity" -> its evidence
    divergence: Divergence | None = None
    found: list[str] = field(default_factory=list)  # what was reported

    def feed(self, facts: Facts) -> list[Finding]:
        """Take in one round; what it establishes that was not reported before."""
        share = self.level / 2 / len(RULES)
        self._remember(facts)
        findings = [finding for rule in RULES if (finding := self._judge(rule, facts, share))]
        if self.divergence is None:
            self.divergence = Divergence(self.level / 4)
        for kind, reference in self.divergence.update(self.rounds, facts):
            severity: Severity = "stop" if kind == "fall" else "warn"
            evidence = evidence_of(kind, reference, facts)
            findings.append(Finding("reward hacking", severity, facts.round, evidence, HACKING_REMEDY))
        self.rounds += 1
        return self._news(findings)

    def _news(self, findings: list[Finding]) -> list[Finding]:
        """Each finding once, and no warning of what is already a reason to stop."""
        news = []
        for finding in sorted(findings, key=lambda finding: finding.severity != "stop"):
            keys = (f"{finding.name}/{finding.severity}", f"{finding.name}/stop")
            if not any(key in self.found for key in keys):
                self.found.append(keys[0])
                news.append(finding)
        return news

    def _remember(self, facts: Facts) -> None:
        """Extremes of reward always; the first rounds until there are enough of them."""
        rewards = [reward for group in facts.groups for reward in group.rewards]
        if rewards:
            best, worst = max(*rewards, self.start.best), min(*rewards, self.start.worst)
            self.start = replace(self.start, best=best, worst=worst)
        if self.rounds < START_ROUNDS:
            self.opening += facts.groups
        elif self.opening:
            begun = start_of(self.opening)
            self.start = replace(begun, best=self.start.best, worst=self.start.worst)
            self.opening = []

    def _judge(self, rule: Rule, facts: Facts, share: float) -> Finding | None:
        if rule.needs_start and self.rounds < START_ROUNDS:
            return None
        items = rule.items(facts, self.start)
        if not len(items):
            return None
        key = f"{rule.name}/{rule.severity}"
        watch = self.watches.setdefault(key, Watch(Bet(rule.tolerated(self.start))))
        watch.recent = [*watch.recent, float(np.mean(items))][-RECENT:]
        if watch.bet.update(items) < -math.log(share):
            return None
        evidence = (
            f"over the last {len(watch.recent)} rounds {np.mean(watch.recent):.0%} of {rule.trouble} "
            f"({watch.bet.mean:.0%} is tolerated)"
        )
        remedy = rule.remedy
        if rule.name == "dead groups":
            kind, remedy = why_dead(facts, self.start, rule.remedy)
            evidence += f"; {kind}"
        return Finding(rule.name, rule.severity, facts.round, evidence, remedy)

    def state(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def restore(state: Mapping[str, Any]) -> Health:
        divergence = state["divergence"]
        return Health(
            level=state["level"],
            rounds=state["rounds"],
            start=Start(**state["start"]),
            opening=[
                GroupFacts(**group | {"rewards": tuple(group["rewards"])}) for group in state["opening"]
            ],
            watches={key: Watch(Bet(**w["bet"]), list(w["recent"])) for key, w in state["watches"].items()},
            divergence=divergence
            and Divergence(divergence["level"], [restored(r) for r in divergence["references"]]),
            found=list(state["found"]),
        )


def restored(reference: Mapping[str, Any]) -> Reference:
    bets = {name: reference[name] and Bet(**reference[name]) for name in ("up", "far_up", "fall", "flat")}
    return Reference(**dict(reference) | bets)


def why_dead(facts: Facts, start: Start, remedy: str) -> tuple[str, str]:
    """Which way the dead groups of this round fail, by the middle of all rewards seen in the run."""
    dead = [group for group in facts.groups if group.dead]
    unscored = sum(not group.rewards for group in dead)
    scored = [group.reward for group in dead if group.rewards]
    if start.best == start.worst and scored:
        return f"every reward of the run so far is {start.best:g}", "check the reward: it tells nothing apart"
    easy = sum(reward > start.middle for reward in scored)
    hard = len(scored) - easy
    counts = f"this round {easy} were all right, {hard} all wrong, {unscored} without a score"
    if unscored > max(easy, hard):
        return counts, "too few attempts got a score: see the failures and abstentions of the reward"
    if easy > hard:
        return f"too easy: {counts}", f"{remedy}, or move on to harder tasks: these are learned"
    return (
        f"too hard: {counts}",
        f"{remedy}, give easier tasks or more attempts, or train on demonstrations first",
    )
