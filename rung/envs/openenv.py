"""OpenEnv-style worlds as an environment: `reset(seed)` and `step(action)` give observation, reward, done.

    openenv_environment(make=MyEnv, act=lambda text: MyAction(move=text), see=lambda obs: obs.board)

`make` opens one world (an `openenv` environment, its client, or anything alike; an asynchronous client is asked
for its synchronous side, `sync()`); its `reset` and `step` may return an observation that carries `reward` and
`done`, or a result with an `observation` inside. What the model sees of it leaves reward, done and metadata out.
Task i is `reset(seed=i)`; a training seed never is a test seed. The score is the sum of the rewards of an
episode. Nothing of the package is imported, only its names are used.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rung.envs.environment import Environment, Messages, Task
from rung.envs.generated import TEST_SIZE, TRAIN_SIZE
from rung.envs.play import task_of
from rung.envs.sequences import Tasks
from rung.envs.worlds import NotRepeatable, Worlds
from rung.errors import UserError
from rung.rewards.score import Attempt, Failure, Score, Verdict

TEST_SEEDS = 2**30  # test worlds are seeded from here, training worlds below


def openenv_environment(
    name: str,
    make: Callable[[], Any],
    act: Callable[[str], Any],
    see: Callable[[Any], str] = lambda observation: text_of(observation),
    *,
    instruction: str = "",
    max_turns: int = 10,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
) -> Environment:
    """`act` turns the model's text into an action, `see` an observation into text for the model."""
    worlds = Worlds(lambda task: Episode(opened(make), act, see, task.extra["seed"]))

    def task(split: str, world_seed: int) -> Task:
        world = opened(make)
        first = see(observed(world.reset(seed=world_seed))[0])
        close(world)
        text = f"{instruction}\n\n{first}" if instruction else first
        messages = ({"role": "user", "content": text},)
        return Task(f"{name}:{split}:{world_seed}", messages, extra={"seed": world_seed})

    train, test = (
        train_size if train_size is not None else TRAIN_SIZE,
        TEST_SIZE if test_size is None else test_size,
    )
    start = seed * 1_000_003 % (TEST_SEEDS - train)
    return Environment(
        name,
        Seeded("train", range(start, start + train), task),
        Seeded("test", range(TEST_SEEDS, TEST_SEEDS + test), task),
        Paid(worlds),
        reply=worlds.reply,
        max_turns=max_turns,
    )


@dataclass(frozen=True)
class Paid:
    """The sum of what an episode paid. Trusted, for it must run in this process: here its world is."""

    worlds: Worlds
    trusted: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        try:
            total, steps = self.worlds.grade(
                task_of(attempt), attempt.messages, lambda world: (world.total, world.steps)
            )
        except NotRepeatable as error:
            return Failure("invalid", str(error))
        return Score(total, {"steps": float(steps)})


@dataclass
class Episode:
    """One world from its reset to its end, with what it paid."""

    world: Any
    act: Callable[[str], Any]
    see: Callable[[Any], str]
    seed: int
    total: float = field(default=0.0, init=False)
    steps: int = field(default=0, init=False)
    done: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.done = observed(self.world.reset(seed=self.seed))[2]

    def say(self, text: str) -> Messages | None:
        if self.done:
            return None
        observation, reward, self.done = observed(self.world.step(self.act(text)))
        self.total += reward
        self.steps += 1
        return None if self.done else [{"role": "user", "content": self.see(observation)}]

    def close(self) -> None:
        close(self.world)


def observed(result: Any) -> tuple[Any, float, bool]:
    """(observation, reward, done) of an observation that carries them or of a result around it."""
    observation = getattr(result, "observation", result)
    return observation, float(getattr(result, "reward", None) or 0), bool(getattr(result, "done", False))


HIDDEN = ("reward", "done", "metadata")  # of an observation: for the trainer, not for the model


def text_of(observation: Any) -> str:
    """An observation's own text, if one field of it is called so; else its fields, without what it was paid."""
    if isinstance(observation, str):
        return observation
    fields = observation if isinstance(observation, Mapping) else getattr(observation, "__dict__", {})
    shown = {key: value for key, value in fields.items() if key not in HIDDEN and not key.startswith("_")}
    for key in ("text", "prompt", "message", "content", "observation"):
        if isinstance(found := shown.get(key), str):
            return found
    return json.dumps(shown, ensure_ascii=False, default=str) if fields else str(observation)


def opened(make: Callable[[], Any]) -> Any:
    """A world that answers when it is asked."""
    world = make()
    if not inspect.iscoroutinefunction(world.reset):
        return world
    if not hasattr(world, "sync"):
        raise UserError(
            f"{type(world).__name__}.reset is a coroutine; give openenv_environment a world whose reset and step answer "
            "at once, such as a client's `sync()`"
        )
    return world.sync()


def close(world: Any) -> None:
    if hasattr(world, "close"):
        world.close()


@dataclass(frozen=True)
class Seeded(Tasks):
    """One task for every seed, made when it is asked for."""

    split: str
    seeds: range
    make: Callable[[str, int], Task]

    def __len__(self) -> int:
        return len(self.seeds)

    def task(self, index: int) -> Task:
        return self.make(self.split, self.seeds[index])
