"""Answer or stay silent: right earns 1 - tau, wrong costs tau, silence is worth 0.

The expected reward of answering is p (1 - tau) - (1 - p) tau = p - tau, so answering pays exactly where the
chance p to be right is above tau. Source: Cursor's Tab model (blog, September 2025), tau = 0.25.
The model's silence is a Score of 0; it is not the grader's Abstain.
"""

from __future__ import annotations

from dataclasses import dataclass

from rung.errors import UserError
from rung.rewards.extract import final_answer
from rung.rewards.score import Attempt, Reward, Score, Verdict


@dataclass(frozen=True)
class AnswerOrSilence:
    """`silence` are the answers that count as none, compared without case and final stop; "" is always one."""

    verifier: Reward
    tau: float = 0.25
    silence: tuple[str, ...] = ("I don't know",)

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            raise UserError(f"tau is {self.tau}; it is a probability, between 0 and 1")

    @property
    def trusted(self) -> bool:
        return getattr(self.verifier, "trusted", False)

    def __call__(self, attempt: Attempt) -> Verdict:
        said = _plain(final_answer(attempt.answer))
        if not said or said in {_plain(phrase) for phrase in self.silence}:
            return Score(0.0, {"answered": 0.0})
        verdict = self.verifier(attempt)
        if not isinstance(verdict, Score):
            return verdict
        right = verdict.value >= 0.5
        return Score(1 - self.tau if right else -self.tau, {"answered": 1.0, "right": float(right)})


def _plain(text: str) -> str:
    return " ".join(text.replace("\u2019", "'").casefold().split()).rstrip(".!")
