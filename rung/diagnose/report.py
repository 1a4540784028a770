"""Everything that can be said of a run folder: each detector looks, and what they found comes worst first.

Level. Health's findings are false in at most 5 % of honest runs, over their whole length. Each other detector holds
1 % on its own null hypothesis; of the seven, three need rollouts, one pairs, one held-out rows and one held-out
tasks, so an honest run has any finding with probability at most 5 + 7 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rung.diagnose.collapse import collapse
from rung.diagnose.displacement import displacement
from rung.diagnose.forgetting import forgetting
from rung.diagnose.goblins import goblins
from rung.diagnose.health import Finding
from rung.diagnose.instability import instability
from rung.diagnose.learning import learning
from rung.diagnose.overfitting import overfitting
from rung.diagnose.replay import replay
from rung.diagnose.run import Look, Trace, read_trace

DETECTORS = (instability, learning, replay, goblins, collapse, forgetting, overfitting, displacement)
WORST_FIRST = (
    "instability", "reward hacking", "likelihood displacement", "forgetting", "mode collapse", "entropy collapse",
    "phrase surge",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    path: Path
    looks: tuple[Look, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        found = [finding for look in self.looks for finding in look.findings]
        if any(
            finding.name == "reward hacking" for finding in found
        ):  # a fall of the held-out score is part of it
            found = [finding for finding in found if finding.name != "forgetting"]
        grave = {finding.name for finding in found if finding.severity == "stop"}
        found = [finding for finding in found if finding.severity == "stop" or finding.name not in grave]
        return tuple(sorted(found, key=order))

    @property
    def stops(self) -> bool:
        return any(finding.severity == "stop" for finding in self.findings)


def order(finding: Finding) -> tuple[bool, int]:
    known = finding.name in WORST_FIRST
    return finding.severity != "stop", WORST_FIRST.index(finding.name) if known else len(WORST_FIRST)


def diagnose(path: str | Path) -> Report:
    """Read a run folder and look at it with every detector."""
    return Report(Path(path), looks(read_trace(path)))


def looks(trace: Trace) -> tuple[Look, ...]:
    """What does not concern this kind of run is left out."""
    rl = trace.store is not None or bool(len(trace.series("round")[0]))
    pairs = bool(len(trace.series("chosen_change")[0]))
    of_rl, of_rows = (replay, goblins, collapse, forgetting), (overfitting,)
    apply = [
        detector
        for detector in DETECTORS
        if not (detector in of_rl and not rl)
        and not (detector in of_rows and rl)
        and not (detector is displacement and not pairs)
    ]
    return tuple(detector(trace) for detector in apply)
