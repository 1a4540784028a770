"""How an answer is asked for. Rewards find it in any of these forms (`rung.rewards.extract`).

    plain   "... on the last line, after "Answer:"."            Answer: 42
    tags    "... between <answer> and </answer>."               <answer>42</answer>
    think   "... <think> ..., then <answer> ..."                <think>6 x 7</think><answer>42</answer>
    none    nothing is added; the question says how, or the model has learned it from demonstrations

The sentence stands at the end of the user's message, short, because a small model reads best what comes last
and many chat templates know no system message. An answer of several lines needs tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rung.envs.environment import Task, Worked
from rung.envs.generated import Ask, Problem
from rung.errors import UserError


class AnswerFormat(NamedTuple):
    request: str
    shape: str  # an answer in this format, {} standing for what is graded


FORMATS = {
    "plain": AnswerFormat('Give the answer on the last line, after "Answer:".', "Answer: {}"),
    "tags": AnswerFormat("Put the answer between <answer> and </answer>.", "<answer>{}</answer>"),
    "think": AnswerFormat(
        "Think between <think> and </think>, then put only the answer between <answer> and </answer>.",
        "<think>\nI work it out.\n</think>\n<answer>{}</answer>",
    ),
    "none": AnswerFormat("", "{}"),
}


def asker(format: str, name: str) -> Ask:
    """Puts a problem to the model: one user message, the request for a format at its end."""
    if format not in FORMATS:
        raise UserError(f"{name}: there is no answer format {format!r}; write {', '.join(FORMATS)}")
    request = FORMATS[format].request

    def ask(problem: Problem) -> Sequence[Mapping[str, Any]]:
        text = f"{problem.question.rstrip()}\n\n{request}" if request else problem.question
        return [{"role": "user", "content": text}]

    return ask


def worked(name: str, problem: Problem, format: str, wrong: str) -> Worked | None:
    """A worked example from a problem whose solution is known."""
    if problem.solution is None:
        return None
    shape = FORMATS[format].shape
    task = Task(f"{name}:example", tuple(asker(format, name)(problem)), problem.reference, problem.extra)
    return Worked(task, (shape.format(problem.solution),), (shape.format(wrong),))
