"""Rewards about length: cosine, soft overlong punishment, a budget of thinking.

Lengths are tokens the model wrote. Each is a shaping term: alone it knows nothing of right and wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from rung.errors import UserError
from rung.rewards.score import Attempt, Failure, Reward, Score, Verdict


def cosine(length: float, longest: float, at_zero: float, at_longest: float) -> float:
    """From `at_zero` to `at_longest` along half a cosine: vL + (v0 - vL)(1 + cos(pi L / Lmax)) / 2.

    The progress is held at 1: a cosine is periodic, and beyond Lmax the reward would rise again.
    """
    progress = min(length / longest, 1.0)
    return at_longest + (at_zero - at_longest) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Cosine:
    """Right answers earn more when short, wrong ones lose less when long (they should have thought on).

    `verifier` says right (a score of at least one half) or not; its Abstain or Failure is passed on. What ran
    into its limit, or reached `longest`, gets `exceeded`.
    Source: Demystifying Long Chain-of-Thought Reasoning, arXiv 2502.03373. The values at the ends are TRL's
    (the paper's are 2 to 1, -10 to 0, exceeded -10), `exceeded` is the worst of them, as it is in the paper.
    """

    verifier: Reward
    longest: int
    right: tuple[float, float] = (1.0, 0.5)  # at length 0, at the longest
    wrong: tuple[float, float] = (-1.0, -0.5)
    exceeded: float = -1.0

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise UserError(f"the longest answer is {self.longest} tokens; give a length of at least 1")

    @property
    def trusted(self) -> bool:
        return getattr(self.verifier, "trusted", False)

    def __call__(self, attempt: Attempt) -> Verdict:
        verdict = self.verifier(attempt)
        if not isinstance(verdict, Score):
            return verdict
        parts = {"verifier": verdict.value}
        if attempt.truncated or attempt.tokens >= self.longest:
            return Score(self.exceeded, parts)
        ends = self.right if verdict.value >= 0.5 else self.wrong
        return Score(cosine(attempt.tokens, self.longest, *ends), parts)


@dataclass(frozen=True)
class SoftOverlong:
    """0 up to `longest - margin` tokens, then a straight line down to -penalty at `longest`, and there it stays.

    R(L) = 0 | ((Lmax - Lcache) - L) / Lcache | -1.
    Source: DAPO, arXiv 2503.14476, with Lmax 20480 and Lcache 4096. Added to a correctness reward of +-1.
    """

    longest: int
    margin: int
    penalty: float = 1.0

    trusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.margin <= self.longest:
            raise UserError(
                f"a margin of {self.margin} tokens before {self.longest}; it must be 1 to {self.longest}"
            )

    def __call__(self, attempt: Attempt) -> Verdict:
        excess = attempt.tokens - (self.longest - self.margin)
        return Score(-self.penalty * min(max(excess / self.margin, 0.0), 1.0))


@dataclass(frozen=True)
class ThinkingBudget:
    """1 where the thinking took `least` to `most` tokens; below and above it falls, to 0 at 0 and at twice `most`.

    `closing` are the ids of </think>; what stands before them is thinking. A thought that never closes is as
    long as the turn. Source: s1, arXiv 2501.19393, which measures the share of answers inside the budget (the
    part `within`) and forces it while decoding; the slopes outside are ours, so that RL has a way back.
    """

    least: int
    most: int
    closing: tuple[int, ...]

    trusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 <= self.least <= self.most and self.most > 0 and self.closing):
            raise UserError(
                f"a thinking budget of {self.least} to {self.most} tokens closed by {self.closing}; "
                "give 0 <= least <= most and the token ids of </think>"
            )

    def __call__(self, attempt: Attempt) -> Verdict:
        if attempt.answer and not attempt.token_ids:
            return Failure(
                "invalid", "the attempt has text and no token ids, so its thinking cannot be counted"
            )
        thought = _position(attempt.token_ids, self.closing)
        within = self.least <= thought <= self.most
        near = thought / self.least if thought < self.least else max(0.0, 2 - thought / self.most)
        return Score(1.0 if within else near, {"tokens": float(thought), "within": float(within)})


def _position(token_ids: tuple[int, ...], closing: tuple[int, ...]) -> int:
    ends = range(len(token_ids) - len(closing) + 1)
    return next((i for i in ends if token_ids[i : i + len(closing)] == closing), len(token_ids))
