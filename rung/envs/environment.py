"""An environment: tasks, how an attempt at one is graded, and what the world answers between turns.

A single-turn environment has tasks and a reward. A multi-turn one also has `reply`: given the whole
conversation so far, prompt included, it returns the messages of the world (a tool's result, a user's next
turn), or None when the episode is over. Tasks are a sequence, so a task's index names it and a resumed run
finds it again. A reward is asked about an `Attempt`, whose `extra` is the task's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.rewards.score import Reward


@dataclass(frozen=True)
class Task:
    """One thing to solve. `key` names it for ever, whatever is sampled around it."""

    key: str  # "chain_sum:17"
    messages: tuple[Mapping[str, Any], ...]  # the prompt
    reference: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)


Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Worked:
    """A worked example: a task, and what a model says that is right, or wrong, turn by turn."""

    task: Task
    right: tuple[str, ...]
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Environment:
    """`train` and `test` are disjoint. `tools` are JSON schemas, passed through the chat template."""

    name: str
    train: Sequence[Task]
    test: Sequence[Task]
    reward: Reward
    tools: tuple[Mapping[str, Any], ...] = ()
    reply: Callable[[Task, Messages], Messages | None] | None = None  # None: one turn
    max_turns: int = 1  # turns of the model
    example: Worked | None = None  # None where no right answer is known beforehand

    def digest(self) -> str:
        """What a resumed run is held to: the name and the first tasks to train on, whole."""
        first = [self.train[i] for i in range(min(16, len(self.train)))]
        text = repr([(task.key, task.messages, task.reference) for task in first])
        return hashlib.sha256(f"{self.name} {len(self.train)} {text}".encode()).hexdigest()
