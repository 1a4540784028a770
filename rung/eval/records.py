"""What an evaluation consists of: how it was made, each prompt as it was rendered, each sample with its verdict.

All of it goes through JSON and comes back equal. JSON has no tuples and no keys but text, and a grader may
look at either, so both are tagged; what cannot be written exactly is refused before anything is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.errors import UserError
from rung.rewards.score import Abstain, Attempt, Failure, Score, Verdict

TUPLE, PAIRS = "__tuple__", "__pairs__"


@dataclass(frozen=True)
class Header:
    """How it was made. Nothing here depends on the clock or the machine: the same twice is the same file."""

    model: Mapping[str, Any]  # name, digest
    sampling: Mapping[str, Any]  # every resolved parameter, the seed too
    engine: Mapping[str, Any]  # name, version, dtype, strict or not
    data: Mapping[str, Any]  # name, split, digest
    code: Mapping[str, Any]  # version and digest of rung, the reward
    attempts: int = 1  # at each task
    correct_at: float = 1.0  # the score from which an attempt counts as right


@dataclass(frozen=True)
class Prompt:
    """One task as the model saw it: the messages, the text the template made of them, the very ids."""

    task: str
    messages: Sequence[Mapping[str, Any]]
    text: str
    token_ids: Sequence[int]
    reference: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        hold_as_tuples(self)


@dataclass(frozen=True)
class Sample:
    """One attempt at a task. `index` counts the attempts at it from 0."""

    task: str
    index: int
    answer: str  # the model's last turn
    token_ids: Sequence[int]  # of that turn
    finish: str  # "stop", "length" or "abort"
    verdict: Verdict
    tokens: int = 0  # the model wrote in all its turns
    messages: Sequence[Mapping[str, Any]] = ()  # what followed the prompt, every turn of it

    def __post_init__(self) -> None:
        hold_as_tuples(self)

    @property
    def key(self) -> tuple[str, int]:
        return self.task, self.index


def hold_as_tuples(record: Prompt | Sample) -> None:
    """Lists, tuples and arrays of ids are one and the same here, whether made or read back."""
    object.__setattr__(record, "token_ids", tuple(int(i) for i in record.token_ids))
    object.__setattr__(record, "messages", tuple(record.messages))


def attempt_of(prompt: Prompt, sample: Sample) -> Attempt:
    """What a reward sees of the sample, rebuilt as it was when it was first judged."""
    return Attempt(
        prompt=tuple(prompt.messages),
        answer=sample.answer,
        reference=prompt.reference,
        tokens=sample.tokens,
        truncated=sample.finish == "length",
        messages=tuple(sample.messages),
        token_ids=tuple(sample.token_ids),
        task=prompt.task,
        extra=prompt.extra,
    )


# ---- to JSON and back ----


def written(value: Any, where: str = "") -> Any:
    """The JSON form of a value made of None, booleans, numbers, text, lists, tuples and mappings."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and type(value) in (int, float):
        if math.isfinite(value):
            return value
        raise UserError(f"{where} holds {value}, which JSON cannot; a result file could not be read back")
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and key not in (TUPLE, PAIRS) for key in value):
            return {key: written(part, f"{where}.{key}") for key, part in value.items()}
        return {PAIRS: [[written(k, where), written(v, where)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        parts = [written(part, f"{where}[{i}]") for i, part in enumerate(value)]
        return parts if isinstance(value, list) else {TUPLE: parts}
    if hasattr(value, "tolist"):  # arrays and scalars of numpy: they come back as plain numbers
        return written(value.tolist(), where)
    raise UserError(
        f"{where} holds a {type(value).__name__}, which a result file cannot keep exactly; "
        "give numbers, text, lists, tuples or dictionaries"
    )


def read_back(value: Any) -> Any:
    if isinstance(value, list):
        return [read_back(part) for part in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {TUPLE}:
        return tuple(read_back(part) for part in value[TUPLE])
    if value.keys() == {PAIRS}:
        return {read_back(k): read_back(v) for k, v in value[PAIRS]}
    return {key: read_back(part) for key, part in value.items()}


def header_row(header: Header) -> dict[str, Any]:
    return {name: written(value, f"header.{name}") for name, value in vars(header).items()}


def prompt_row(prompt: Prompt) -> dict[str, Any]:
    row = vars(prompt) | {"messages": list(prompt.messages), "token_ids": list(prompt.token_ids)}
    return {name: written(value, f"task {prompt.task}: {name}") for name, value in row.items()}


def sample_row(sample: Sample) -> dict[str, Any]:
    row = vars(sample) | {
        "token_ids": list(sample.token_ids),
        "messages": list(sample.messages),
        "verdict": verdict_row(sample.verdict),
    }
    return {
        name: written(value, f"sample {sample.task}/{sample.index}: {name}") for name, value in row.items()
    }


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    if isinstance(verdict, Score):
        return {"score": float(verdict.value), "parts": {k: float(v) for k, v in verdict.parts.items()}}
    if isinstance(verdict, Abstain):
        return {"abstain": verdict.reason}
    return {"failure": verdict.kind, "detail": verdict.detail}


def read_header(row: Mapping[str, Any]) -> Header:
    return Header(**{name: read_back(value) for name, value in row.items()})


def read_prompt(row: Mapping[str, Any]) -> Prompt:
    return Prompt(**{name: read_back(value) for name, value in row.items()})


def read_sample(row: Mapping[str, Any]) -> Sample:
    plain = {name: read_back(value) for name, value in row.items()}
    return Sample(**plain | {"verdict": read_verdict(plain["verdict"])})


def read_verdict(row: Mapping[str, Any]) -> Verdict:
    if "score" in row:
        return Score(row["score"], row["parts"])
    return Abstain(row["abstain"]) if "abstain" in row else Failure(row["failure"], row["detail"])
