"""The first thing in which two evaluations differ, in the order in which one thing causes the next.

model, prompts, sampling, engine, data, code, how attempts are counted, then sample by sample. Once a cause
differs, everything after it may; so only the first is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rung.eval.records import Header, Prompt, Sample, header_row, prompt_row, sample_row

NOTHING = "(nothing)"
CONTEXT = 60  # characters of long text shown around the first that differs


@dataclass(frozen=True)
class Difference:
    what: str  # "sampling.temperature", "prompt gsm8k:3", "sample gsm8k:3/0 verdict"
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.what}: {self.first!r} against {self.second!r}"


class Evaluation(Protocol):
    """What is compared: a result as it is read from its folder."""

    @property
    def header(self) -> Header: ...
    @property
    def prompts(self) -> Sequence[Prompt]: ...
    @property
    def samples(self) -> Sequence[Sample]: ...


def difference(first: Evaluation, second: Evaluation) -> Difference | None:
    """None if the two are the same evaluation with the same outcome."""
    return cause(first.header, first.prompts, second.header, second.prompts) or outcome(
        first.samples, second.samples
    )


def cause(
    header_a: Header, prompts_a: Sequence[Prompt], header_b: Header, prompts_b: Sequence[Prompt]
) -> Difference | None:
    """The first difference in how they were made. Models of one digest may bear different names."""
    a, b = header_row(header_a), header_row(header_b)
    if a["model"].get("digest") and a["model"].get("digest") == b["model"].get("digest"):
        a["model"].pop("name", None), b["model"].pop("name", None)
    shown_a, shown_b = [prompt_row(p) for p in prompts_a], [prompt_row(p) for p in prompts_b]
    return (
        between("model", a["model"], b["model"], first=("digest",))
        or prompts(shown_a, shown_b, ("messages", "text", "token_ids"))
        or between("sampling", a["sampling"], b["sampling"])
        or between("engine", a["engine"], b["engine"], first=("name", "version", "dtype"))
        or between("data", a["data"], b["data"], first=("digest",))
        or prompts(shown_a, shown_b, ("reference", "extra"))
        or between("code", a["code"], b["code"])
        or between("", {"attempts": a["attempts"]}, {"attempts": b["attempts"]})
        or between("", {"correct_at": a["correct_at"]}, {"correct_at": b["correct_at"]})
    )


def between(
    what: str, a: Mapping[str, Any], b: Mapping[str, Any], first: tuple[str, ...] = ()
) -> Difference | None:
    for key in dict.fromkeys([*first, *a, *b]):
        one, other = a.get(key, NOTHING), b.get(key, NOTHING)
        if isinstance(one, dict) and isinstance(other, dict):
            found = between(f"{what}.{key}", one, other)
            if found:
                return found
        elif one != other or type(one) is not type(other):
            return Difference(f"{what}.{key}".lstrip("."), *around(one, other))
    return None


def prompts(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], parts) -> Difference | None:
    for one, other in zip(a, b, strict=False):
        if one["task"] != other["task"]:
            return Difference("prompts: order of tasks", one["task"], other["task"])
        for part in parts:
            if one[part] != other[part]:
                return Difference(f"prompt {one['task']} {part}", *around(one[part], other[part]))
    if len(a) != len(b):
        return Difference("prompts: how many", len(a), len(b))
    return None


def outcome(a: Sequence[Sample], b: Sequence[Sample]) -> Difference | None:
    ones, others = {s.key: sample_row(s) for s in a}, {s.key: sample_row(s) for s in b}
    for key in dict.fromkeys([*ones, *others]):
        name = f"sample {key[0]}/{key[1]}"
        if key not in ones or key not in others:
            return Difference(name, *("there" if key in side else NOTHING for side in (ones, others)))
        for part in ("token_ids", "answer", "finish", "messages", "tokens", "verdict"):
            one, other = ones[key][part], others[key][part]
            if one != other:
                return Difference(f"{name} {part}", *around(one, other))
    return None


def around(one: Any, other: Any) -> tuple[Any, Any]:
    """Of long text or lists, what stands near the first place where they part."""
    if (
        type(one) is not type(other)
        or not isinstance(one, str | list)
        or max(len(one), len(other)) <= CONTEXT
    ):
        return one, other
    pairs = enumerate(zip(one, other, strict=False))
    place = next((i for i, (x, y) in pairs if x != y), min(len(one), len(other)))
    window = slice(max(place - CONTEXT // 4, 0), place + CONTEXT // 4)
    return f"at {place}: {one[window]}", f"at {place}: {other[window]}"
