"""A conversation with given turns of the model: what `rung envs show` grades and what tests play."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rung.envs.environment import Environment, Messages, Task
from rung.rewards.score import Attempt, Verdict


def play(environment: Environment, task: Task, turns: Sequence[str]) -> tuple[Attempt, Verdict]:
    """The model says `turns` one after the other until the episode is over; then it is graded."""
    conversation: list[Mapping[str, Any]] = list(task.messages)
    for number, text in enumerate(turns, 1):
        conversation.append({"role": "assistant", "content": text})
        if environment.reply is None or number == environment.max_turns:
            break
        answer = environment.reply(task, conversation)
        if answer is None:
            break
        conversation += answer
    attempt = attempt_at(task, conversation[len(task.messages) :])
    return attempt, environment.reward(attempt)


def attempt_at(task: Task, after: Messages, **more: Any) -> Attempt:
    """What the reward sees of a conversation: `after` is all that followed the prompt."""
    return Attempt(
        prompt=task.messages,
        answer=model_turns(after)[-1],
        reference=task.reference,
        messages=tuple(after),
        task=task.key,
        extra=task.extra,
        **more,
    )


def task_of(attempt: Attempt) -> Task:
    """The task an attempt was made at."""
    return Task(attempt.task, attempt.prompt, attempt.reference, attempt.extra)


def model_turns(messages: Messages) -> list[str]:
    """What the model said, turn by turn."""
    return [message["content"] for message in messages if message["role"] == "assistant"]
