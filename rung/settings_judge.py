"""Settings of whoever judges, critiques or writes: which model, where its answers are kept, what it may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rung.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a model is asked, and what it may cost."""

    concurrency: int = 8
    """Requests to a server, or answers sampled here, at once."""
    timeout: float = 120.0
    """Seconds a server may take for one answer."""
    patience: float = 300.0
    """Seconds after which a server that is busy or away is not asked again for an answer."""
    calls: int = 0
    """Answers that may ever be asked for, counted over resumed runs; 0 is no limit."""
    tokens: int = 0
    """Tokens, read and written, that may ever be used, counted in the same way; 0 is no limit."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "timeout", "patience"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; write a number above 0.")
        if self.calls < 0 or self.tokens < 0:
            raise UserError(
                f"calls is {self.calls} and tokens is {self.tokens}; write 0 for no limit, or how many."
            )


@dataclass(frozen=True, kw_only=True)
class Judging(Asking):
    """The judge: an OpenAI-compatible server or a model on this machine."""

    judge: str = ""
    """Who judges: the http address of an OpenAI-compatible server, or a model as every command takes it."""
    judge_name: str = ""
    """The judge's name at its server; not needed where that serves one model."""
    judge_tokens: int = 512
    """Longest answer of the judge."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judge_tokens < 1:
            raise UserError(f"judge_tokens is {self.judge_tokens}; write 1 or more.")


@dataclass(frozen=True, kw_only=True)
class JudgeReward(Judging):
    """What stands in a judge file: `rung rl --reward judge.yaml`."""

    by: Literal["rating", "rubric", "critique"] = "rating"
    """rating: from 1 to 10. rubric: criteria passed. critique: share of duels won within the group."""
    rubric: str = ""
    """A file of criteria; empty, each task's own, in its row's column `rubric`."""
    aggregation: Literal["explicit", "implicit"] = "explicit"
    """explicit: each criterion is judged alone. implicit: one rating from 1 to 10 with all of them in view."""
    standard: str = ""
    """What a rating or a duel goes by, in words; empty is helpful, correct, clear."""
    memory: str = "judgements.jsonl"
    """Where every judgement is kept, beside the judge file; what stands there is never asked again."""
