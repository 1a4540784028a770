"""Several environments as one, each with its share of the tasks.

Task i of the mixture belongs to the member whose share is furthest behind after i tasks, so every beginning of
the sequence has the shares asked for, to within a task, and which member comes at i is a pure function of the
weights and i. Which of its tasks comes is the member's own order, turned by the seed: member tasks n, n + 1, ...
from a start that the seed chooses, round and round. The test set is every member's, one after the other.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from rung.envs.environment import Environment, Messages, Task
from rung.envs.sequences import Chained, Mapped, Tasks
from rung.errors import UserError
from rung.rewards.score import Attempt, Reward, Verdict

MEMBER = "environment"  # the entry of a task's extra that names the member it is of


def mixture(
    members: Sequence[Environment], weights: Sequence[float] | None, seed: int, size: int | None
) -> Environment:
    names = [member.name for member in members]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"the mixture holds {twice[0]} twice; give it once, with the sum of the weights")
    if empty := [member.name for member in members if not len(member.train)]:
        raise UserError(f"{empty[0]} has a weight in the mixture but no training task; leave it out")
    by_name = dict(zip(names, members, strict=True))

    def reply(task: Task, messages: Messages) -> Messages | None:
        member = by_name[task.extra[MEMBER]]
        turns = sum(message["role"] == "assistant" for message in messages[len(task.messages) :])
        return member.reply(task, messages) if member.reply and turns < member.max_turns else None

    tools = {tool["function"]["name"]: tool for member in members for tool in member.tools}
    return Environment(
        "+".join(names),
        MixedTasks(
            members, tuple(weights or [1.0] * len(members)), seed, size or sum(len(m.train) for m in members)
        ),
        Chained([Mapped(member.test, partial(labelled, member)) for member in members]),
        MembersGrade({member.name: member.reward for member in members}),
        tuple(tools.values()),
        reply if any(member.reply for member in members) else None,
        max(member.max_turns for member in members),
        replace(example, task=labelled(members[0], example.task))
        if (example := members[0].example)
        else None,
    )


@dataclass(frozen=True)
class MembersGrade:
    """Every attempt is graded by the member its task is of."""

    rewards: Mapping[str, Reward]

    @property
    def trusted(self) -> bool:
        return all(getattr(reward, "trusted", False) for reward in self.rewards.values())

    def __call__(self, attempt: Attempt) -> Verdict:
        return self.rewards[attempt.extra[MEMBER]](attempt)


def labelled(member: Environment, task: Task) -> Task:
    return replace(task, extra={**task.extra, MEMBER: member.name})


@dataclass(frozen=True)
class MixedTasks(Tasks):
    members: Sequence[Environment]
    weights: tuple[float, ...]
    seed: int
    size: int

    def __len__(self) -> int:
        return self.size

    def task(self, index: int) -> Task:
        which, number = self.order[index]
        tasks = self.members[which].train
        start = random.Random(f"{self.seed}/{self.members[which].name}").randrange(len(tasks))
        return labelled(self.members[which], tasks[(start + number) % len(tasks)])

    @cached_property
    def order(self) -> list[tuple[int, int]]:
        """(member, how many of it came before) for every index."""
        shares = [weight / sum(self.weights) for weight in self.weights]
        taken, order = [0] * len(shares), []
        for total in range(1, self.size + 1):
            which = max(
                range(len(shares)), key=lambda member: (shares[member] * total - taken[member], -member)
            )
            order.append((which, taken[which]))
            taken[which] += 1
        return order
