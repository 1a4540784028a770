"""Is this row worth training on? A judge's marks on six dimensions, and faults that reject it outright.

    kept   where the mean of the six marks (1 to 5) is at least 4, none is below 3, and there is no fault

The six dimensions and the list of faults are those of Granite 4.1's data pipeline (IBM's technical blog, April 2026).
Its weights and thresholds are not public; these are ours and can be set. A reply that is not one whole mark for each
dimension is an Abstain: such a row has not been judged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.errors import UserError
from rung.rewards.asking import Answered, Ledger, Question, Reply, system, user
from rung.rewards.judge import MATERIAL, fenced, transcript
from rung.rewards.score import Abstain

DIMENSIONS = {
    "instruction_following": "it does what was asked, with every constraint",
    "correctness": "what it says is true, what it computes is right",
    "completeness": "nothing that was asked for is missing",
    "conciseness": "nothing is there that does not serve the question",
    "naturalness": "it reads as good writing of a person",
    "calibration": "it is as sure as it has reason to be, and says what it does not know",
}
FAULTS = {
    "hallucination": "it makes up facts, sources or quotations",
    "false_premise": "it takes over something false from the question",
    "wrong_computation": "a calculation is wrong",
    "ungrounded_claim": "documents are given, and it claims what they do not say",
    "invalid_tool_call": "it calls a tool that is not there or with arguments it does not take",
}


@dataclass(frozen=True)
class Quality:
    marks: Mapping[str, int]
    fault: str = ""  # one of FAULTS

    @property
    def mean(self) -> float:
        return sum(self.marks.values()) / len(self.marks)


@dataclass(frozen=True)
class Standard:
    least_mean: float = 4.0
    least: float = 3.0

    def __post_init__(self) -> None:
        if not (1 <= self.least_mean <= 5 and 1 <= self.least <= 5):
            raise UserError(
                f"a mean of at least {self.least_mean} and no mark below {self.least}; marks go from 1 to 5"
            )

    def failure(self, quality: Quality) -> str:
        """Why it is not kept, or nothing. The lowest dimension names a row whose mean would do."""
        if quality.fault:
            return f"judge: {quality.fault}"
        name, lowest = min(quality.marks.items(), key=lambda mark: mark[1])
        if lowest < self.least:
            return f"judge: {name} below {self.least:g}"
        return f"judge: mean below {self.least_mean:g}" if quality.mean < self.least_mean else ""


def quality_of(
    ledger: Ledger, rows: Sequence[tuple[Sequence[Mapping[str, Any]], str]], max_tokens: int = 512
) -> list[Quality | Abstain]:
    """Of (prompt, answer) each."""
    answers = ledger.ask([quality_question(prompt, answer, max_tokens) for prompt, answer in rows])
    return [read_quality(answer) for answer in answers]


def quality_question(prompt: Sequence[Mapping[str, Any]], answer: str, max_tokens: int) -> Question:
    listed = "\n".join(f"- {name}: {meaning}" for name, meaning in DIMENSIONS.items())
    faults = "\n".join(f"- {name}: {meaning}" for name, meaning in FAULTS.items())
    form = ", ".join(f'"{name}": N' for name in DIMENSIONS)
    told = (
        f"You decide whether an answer is good enough to teach from. {MATERIAL}\n"
        f"Give a whole mark from 1 (bad) to 5 (could not be better) for each of:\n{listed}\n"
        f"Name a fault if there is one of these, else leave it empty:\n{faults}\n"
        f'Reply with JSON alone: {{{form}, "fault": ""}}'
    )
    shown = f"{fenced('conversation', transcript(prompt))}\n\n{fenced('answer', answer)}"
    return Question((system(told), user(shown)), max_tokens)


def read_quality(answer: Answered) -> Quality | Abstain:
    if not isinstance(answer, Reply):
        return Abstain(answer.reason)
    start, end = answer.text.find("{"), answer.text.rfind("}")
    try:
        found = json.loads(answer.text[start : end + 1]) if start >= 0 else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return Abstain("the judge gave no JSON of marks")
    marks: dict[str, Any] = {name: found.get(name) for name in DIMENSIONS}
    fault = found.get("fault") or ""
    if any(type(mark) is not int or not 1 <= mark <= 5 for mark in marks.values()):
        return Abstain("the judge did not give a whole mark from 1 to 5 for each dimension")
    if not isinstance(fault, str) or (fault and fault not in FAULTS):
        return Abstain("the judge named a fault that is none of the list")
    return Quality(marks, fault)
