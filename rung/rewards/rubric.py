"""Rubrics as rewards: a checklist for one task, judged item by item or in one look (arXiv 2507.17746).

    explicit   r = sum_j w_j c_j / sum_j w_j, each c_j in {0, 1} judged alone      in [0, 1] however many items
    implicit   one rating from 1 to 10 with all items and weights in view, as (rating - 1) / 9

Weights by name: essential 1, important 0.7, optional 0.3, pitfall 0.9. A pitfall is worded as what a good answer
avoids, so passing is good and every weight is above zero. An item the judge cannot decide makes the whole an Abstain:
the mean of the others would be another rubric. The paper also divides by the sum of weights; what counts as a
rating's zero (here a 1) it leaves open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import yaml

from rung.errors import UserError
from rung.rewards.asking import Answered, Ledger, Question, Reply, system, user
from rung.rewards.judge import MATERIAL, AskingReward, asked_and_answered, fenced, read_rating, transcript
from rung.rewards.score import Abstain, Attempt, Score, Verdict

WEIGHTS = {"essential": 1.0, "important": 0.7, "optional": 0.3, "pitfall": 0.9}
PASSED = re.compile(r"passed\s*:\W*(yes|no)\b", re.IGNORECASE)
FEWEST, MOST = 3, 20  # criteria of a generated rubric; the paper asks for 7 to 20 of a strong model


@dataclass(frozen=True)
class Criterion:
    text: str
    weight: float = 1.0
    category: str = ""  # one of WEIGHTS, where the weight came by name


Rubric = tuple[Criterion, ...]


@dataclass(frozen=True)
class RubricReward(AskingReward):
    """`rubric` for all tasks, or None: each task's own, in its row's column `rubric`."""

    ledger: Ledger
    rubric: Rubric | None = None
    aggregation: Literal["explicit", "implicit"] = "explicit"
    max_tokens: int = 512

    def many(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        rubrics = [self._rubric(attempt) for attempt in attempts]
        asks = [self.questions(a, r) for a, r in zip(attempts, rubrics, strict=True)]
        answers = iter(self.ledger.ask([question for each in asks for question in each]))
        return [
            self._verdict(rubric, [next(answers) for _ in each])
            for rubric, each in zip(rubrics, asks, strict=True)
        ]

    def questions(self, attempt: Attempt, rubric: Rubric) -> list[Question]:
        if self.aggregation == "implicit":
            return [implicit_question(attempt, rubric, self.max_tokens)]
        return [explicit_question(attempt, criterion, self.max_tokens) for criterion in rubric]

    def _rubric(self, attempt: Attempt) -> Rubric:
        if self.rubric is not None:
            return self.rubric
        if "rubric" not in attempt.extra:
            raise UserError(
                f"task {attempt.task} has no column `rubric` and the judge file names no rubric; write `rubric: "
                "FILE` in it, or give every row one (`rung data rubrics` makes them)"
            )
        return parse_rubric(attempt.extra["rubric"], f"task {attempt.task}")

    def _verdict(self, rubric: Rubric, answers: Sequence[Answered]) -> Verdict:
        if self.aggregation == "implicit":
            return read_rating(answers[0])
        passed = [read_passed(answer) for answer in answers]
        for criterion, one in zip(rubric, passed, strict=True):
            if isinstance(one, Abstain):
                return Abstain(f"criterion {criterion.text[:60]!r}: {one.reason}")
        return explicit_score(rubric, [bool(one) for one in passed])


def explicit_score(rubric: Rubric, passed: Sequence[bool]) -> Score:
    """The weighted share of criteria passed; parts are the same share within each category."""
    parts = {}
    for category in dict.fromkeys(criterion.category for criterion in rubric if criterion.category):
        inside = [(c, p) for c, p in zip(rubric, passed, strict=True) if c.category == category]
        parts[category] = share([c for c, _ in inside], [p for _, p in inside])
    return Score(share(rubric, passed), {**parts, "criteria": float(len(rubric))})


def share(rubric: Sequence[Criterion], passed: Sequence[bool]) -> float:
    won = sum(criterion.weight for criterion, one in zip(rubric, passed, strict=True) if one)
    return won / sum(criterion.weight for criterion in rubric)


def explicit_question(attempt: Attempt, criterion: Criterion, max_tokens: int) -> Question:
    told = (
        f"You check whether an answer meets one criterion, and look at nothing else. {MATERIAL}\n"
        "Give your reason in a sentence, then end with one line: `Passed: yes` or `Passed: no`."
    )
    shown = (
        f"{asked_and_answered(attempt)}\n\n{fenced('criterion', criterion.text)}\n\nDoes the answer meet it?"
    )
    return Question((system(told), user(shown)), max_tokens)


def implicit_question(attempt: Attempt, rubric: Rubric, max_tokens: int) -> Question:
    told = (
        f"You rate an answer by a list of criteria, each with its weight. {MATERIAL}\n"
        "Weigh which criteria it meets, then end with one line: `Rating: N`, where N is a whole number from 1 (it "
        "meets none) to 10 (it meets all)."
    )
    listed = "\n".join(f"- (weight {criterion.weight:g}) {criterion.text}" for criterion in rubric)
    shown = f"{asked_and_answered(attempt)}\n\n{fenced('criteria', listed)}\n\nHow good is the answer?"
    return Question((system(told), user(shown)), max_tokens)


def read_passed(answer: Answered) -> bool | Abstain:
    if not isinstance(answer, Reply):
        return Abstain(answer.reason)
    said = {found.lower() for found in PASSED.findall(answer.text)}
    return said == {"yes"} if len(said) == 1 else Abstain("the judge did not say whether it passed")


# ---- where rubrics come from ----


def load_rubric(file: Path) -> Rubric:
    """A YAML or JSON list of criteria."""
    if not file.is_file():
        raise UserError(f"there is no rubric {file}; write a YAML list of {{criterion, weight}} into it")
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a YAML list of criteria: {error}") from error
    return parse_rubric(value, str(file))


def parse_rubric(value: Any, where: str) -> Rubric:
    """A list of texts or of {criterion, weight}, where a weight is a number above 0 or the name of one."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise UserError(f"{where}: a rubric is a list of criteria, and this is {str(value)[:80]!r}")
    return tuple(parse_criterion(item, f"{where}, criterion {i}") for i, item in enumerate(value, 1))


def parse_criterion(item: Any, where: str) -> Criterion:
    row: Mapping[str, Any] = {"criterion": item} if isinstance(item, str) else item
    if not isinstance(row, Mapping) or row.keys() - {"criterion", "weight"}:
        raise UserError(f"{where}: {str(item)[:80]!r}; write {{criterion: TEXT, weight: NUMBER or NAME}}")
    text, weight = row.get("criterion"), row.get("weight", 1.0)
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: the criterion is {text!r}; write what a good answer does")
    if isinstance(weight, str) and weight.lower() in WEIGHTS:
        return Criterion(text.strip(), WEIGHTS[weight.lower()], weight.lower())
    if (
        isinstance(weight, bool)
        or not isinstance(weight, int | float)
        or not (isfinite(weight) and weight > 0)
    ):
        raise UserError(
            f"{where}: the weight is {weight!r}; write a number above 0 or one of {', '.join(WEIGHTS)} (a pitfall "
            "says what a good answer avoids, so its weight is above 0 too)"
        )
    return Criterion(text.strip(), float(weight))


def rubric_question(prompt: Sequence[Mapping[str, Any]], reference: str, max_tokens: int = 1536) -> Question:
    """Asks for a rubric of this task, grounded in an answer known to be good."""
    told = (
        f"You write a checklist by which strangers will grade answers to a task. {MATERIAL}\n"
        "Ground it in the reference answer. Cover what must be there and the likely mistakes. Each criterion can be "
        "checked by itself, with yes or no, by someone who does not see the reference. Word a pitfall as what a good "
        "answer avoids, so that yes is always good.\n"
        f'Write only JSON: a list of 7 to {MOST} objects {{"criterion": TEXT, "weight": "essential" | "important" | '
        '"optional" | "pitfall"}.'
    )
    shown = f"{fenced('task', transcript(prompt))}\n\n{fenced('reference_answer', reference)}"
    return Question((system(told), user(shown)), max_tokens)


def read_rubric(answer: Answered) -> Rubric | Abstain:
    """The JSON list of a reply, alone or in prose; an Abstain where it is none or too short or too long."""
    if not isinstance(answer, Reply):
        return Abstain(answer.reason)
    start, end = answer.text.find("["), answer.text.rfind("]")
    try:
        rubric = parse_rubric(json.loads(answer.text[start : end + 1]) if start >= 0 else None, "the reply")
    except (ValueError, UserError) as error:
        return Abstain(f"no rubric in the reply: {error}")
    if not FEWEST <= len(rubric) <= MOST:
        return Abstain(f"a rubric of {len(rubric)} criteria, and {FEWEST} to {MOST} were wanted")
    return rubric


def written(rubric: Rubric) -> list[dict[str, Any]]:
    """As it stands in a row's column `rubric`."""
    return [{"criterion": each.text, "weight": each.category or each.weight} for each in rubric]
