"""Sequences of tasks that are made when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

from rung.envs.environment import Task


class Tasks(Sequence[Task]):
    """A sequence that needs only its length and task i; slices and negative indices follow."""

    @abstractmethod
    def task(self, index: int) -> Task:
        """Task `index`, from 0 to the length - 1."""

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        chosen = range(len(self))[index]
        return self.task(chosen) if isinstance(chosen, int) else [self.task(i) for i in chosen]


@dataclass(frozen=True)
class Mapped(Tasks):
    """Every task of another sequence, changed."""

    tasks: Sequence[Task]
    change: Callable[[Task], Task]

    def __len__(self) -> int:
        return len(self.tasks)

    def task(self, index: int) -> Task:
        return self.change(self.tasks[index])


@dataclass(frozen=True)
class Chained(Tasks):
    """Sequences one after the other."""

    parts: Sequence[Sequence[Task]]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def task(self, index: int) -> Task:
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)
