"""Hints for rationalisation (STaR, 2203.14465): a task with its answer shown, to be taken out again for training.

    asked      What is 7 x 8?                          trained      What is 7 x 8?
               Hint: the answer is 56. Show ...                     <what the hint led to>

The hint stands in the last message of the prompt. What it led to is judged by the same verifier as everything else,
and an answer that speaks of the hint is left out: without it, that answer would make no sense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from numbers import Real
from pathlib import Path

from rung.envs.environment import Task
from rung.errors import UserError
from rung.rewards.user import function_of

WORD = "hint"  # gives an answer away that leans on it
HINT = "Hint: the answer is {answer}. Show how to get there, and do not mention this."

AnswerOf = Callable[[Task], str]


def hinted(task: Task, answer_of: AnswerOf) -> Task:
    """The task as it is asked with its answer; its key, reference and grading stay."""
    *before, last = task.messages
    if not isinstance(last["content"], str):
        raise UserError(f"task {task.key}: a hint needs a prompt whose last message is text")
    text = f"{last['content']}\n\n{HINT.format(answer=answer_of(task))}"
    return replace(task, messages=(*before, {**last, "content": text}))


def plain_reference(task: Task) -> str:
    """The reference where it is an answer in itself."""
    if isinstance(task.reference, str | Real) and str(task.reference).strip():
        return str(task.reference)
    raise UserError(
        f"task {task.key} has no plain answer to show as a hint: its reference is {task.reference!r:.80}. Write a "
        "function from a task to the text to show and give it with --hint FILE.py:function, or leave out --rationalise"
    )


def load_hint(spec: str) -> AnswerOf:
    """`spec` is "path/to/file.py:function"; nothing is the task's own reference."""
    if not spec:
        return plain_reference
    path, _, name = spec.rpartition(":")
    file = Path(path).expanduser()
    if not path.endswith(".py") or not file.is_file() or not name.isidentifier():
        raise UserError(f"--hint {spec} does not name a function in a file; write path/to/file.py:function")
    function = function_of(str(file.resolve()), name)

    def answer_of(task: Task) -> str:
        answer = function(task)
        if not isinstance(answer, str) or not answer.strip():
            raise UserError(
                f"--hint {spec} gave {answer!r:.80} for task {task.key}; return the answer as text"
            )
        return answer

    return answer_of
