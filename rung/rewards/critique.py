"""Self-critique: answers to one prompt are rewarded by the duels they win against each other (Kimi K2, 2507.20534).

    r_i = mean over j != i of P(i beats j)          all K (K - 1) ordered pairs are judged, each duel in both orders

The critic goes by core rules (what is good), prescriptive rules (what merely looks good to a judge, and is not), and
whatever standard the user adds. It may be the very model that trains, as it was when it was last saved. In the paper
the critic is refined all the while on verifiable rollouts; that is a training loop of its own and not done here.
Duels without a verdict are left out; an answer with no verdict at all, or alone in its group, gets an Abstain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from rung.rewards.asking import Ledger
from rung.rewards.judge import AskingReward, Duel, Pairwise
from rung.rewards.score import Abstain, Attempt, Score, Verdict

RULES = """What counts:
- The answer is about what was asked, and does it in the order and detail that help.
- It is correct, and says so where it is unsure.
- It reads as one person talking plainly to another.
What does not count, and is a fault where it stands in for substance:
- Praise of the question or of the one who asks.
- Explanations of why the answer is good, or that it meets some standard.
- Length, headings or lists without need."""


@dataclass(frozen=True)
class CritiqueReward(AskingReward):
    """Needs whole groups: `many` gets all answers to a prompt, as `rung rl` hands them in."""

    ledger: Ledger
    standard: str = ""
    max_tokens: int = 512

    def many(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        groups: dict[str, list[int]] = {}
        for i, attempt in enumerate(attempts):
            groups.setdefault(f"{attempt.task}\0{attempt.prompt}", []).append(i)
        games = [pair for members in groups.values() for pair in combinations(members, 2)]
        rules = "\n".join(part for part in (RULES, self.standard) if part)
        found = Pairwise(self.ledger, rules, self.max_tokens).compare(
            [Duel(attempts[i].prompt, attempts[i].answer, attempts[j].answer) for i, j in games]
        )
        won: list[list[float]] = [[] for _ in attempts]
        reasons = ["it is alone in its group, and critique compares answers"] * len(attempts)
        for (i, j), outcome in zip(games, found, strict=True):
            if isinstance(outcome, Abstain):
                reasons[i] = reasons[j] = outcome.reason
            else:
                won[i].append(outcome.value)
                won[j].append(1 - outcome.value)
        return [
            Score(sum(values) / len(values), {"duels": float(len(values))}) if values else Abstain(reason)
            for values, reason in zip(won, reasons, strict=True)
        ]
