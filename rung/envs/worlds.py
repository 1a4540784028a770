"""Worlds with a memory of their own, behind the `reply` of an environment, which has none.

`reply` is asked with a whole conversation; a game, a browser, a database moves on with every step. So a world
is kept under the turns the model has said to it, taken out when the next turn comes, and where there is none (a
second rollout with the same beginning, a resumed run) a new one is opened and the turns are said again. What
it answers then must be what stands in the conversation: a world that answers otherwise is not repeatable, and
that is an error, not another reward.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from rung.envs.environment import Messages, Task
from rung.envs.play import model_turns

MOST = 4096  # worlds kept; the ones longest unused are closed


class World(Protocol):
    """One episode. `say` answers a turn of the model, None when the episode is over."""

    def say(self, text: str) -> Messages | None: ...
    def close(self) -> None: ...


class NotRepeatable(RuntimeError):
    pass


@dataclass
class Worlds:
    """Open worlds by (task, what the model said so far)."""

    open: Callable[[Task], World]
    kept: OrderedDict[tuple[str, tuple[str, ...]], Any] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, task: Task, messages: Messages) -> Messages | None:
        after = messages[len(task.messages) :]
        turns = tuple(model_turns(after))
        world = self.take(task, turns[:-1], after)
        answer = world.say(turns[-1])
        self.keep(task, turns, world)
        return answer

    def grade(self, task: Task, after: Messages, grade: Callable[[Any], Any]) -> Any:
        """Something about the world in which a conversation ended, which is then closed."""
        turns = tuple(model_turns(after))
        world, before = self.popped(task, turns), None
        if world is None and (before := self.popped(task, turns[:-1])) is not None:
            before.say(turns[-1])  # nobody asked for a reply to it: the turns had run out
        world = world or before or self.replayed(task, turns, after)
        result = grade(world)
        world.close()
        return result

    def take(self, task: Task, turns: tuple[str, ...], after: Messages) -> Any:
        world = self.popped(task, turns)
        return world if world is not None else self.replayed(task, turns, after)

    def popped(self, task: Task, turns: tuple[str, ...]) -> Any:
        with self.lock:
            return self.kept.pop((task.key, turns), None)

    def keep(self, task: Task, turns: tuple[str, ...], world: World) -> None:
        with self.lock:
            spare = [self.kept.pop((task.key, turns), None)]  # another rollout said the same
            self.kept[(task.key, turns)] = world
            if len(self.kept) > MOST:
                spare.append(self.kept.popitem(last=False)[1])
        for old in spare:
            if old is not None:
                old.close()

    def replayed(self, task: Task, turns: tuple[str, ...], after: Messages) -> World:
        world = self.open(task)
        answers = between_turns(after)
        for number, turn in enumerate(turns):
            said = [message["content"] for message in world.say(turn) or ()]
            if answers[number] and said != answers[number]:
                raise NotRepeatable(
                    f"{task.key}: said the same again, the world answered {said!r} and before {answers[number]!r}; "
                    "seed it from the task, or it cannot be trained on"
                )
        return world


def between_turns(after: Messages) -> list[list[Any]]:
    """The contents of the world's messages behind each turn of the model."""
    answers: list[list[Any]] = []
    for message in after:
        if message["role"] == "assistant":
            answers.append([])
        else:
            answers[-1].append(message["content"])
    return answers
