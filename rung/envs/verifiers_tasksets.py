"""`verifiers` 0.4 (`import verifiers.v1 as vf`): tasks that score their own traces, and what is said between turns.

    def load_environment():  return Sums(SumsConfig())                        a Taskset: one turn for each task
    def load_environment():  return Game(GameConfig(taskset={"id": "words"})) an Env: its `run` is the other side

Their Env is a coroutine that asks an agent for turns (`agents.player.interaction(task)`, `await one.turn(text)`);
rung's environments are asked for a reply. So the coroutine runs in a loop of its own and stands still in `turn`
while the model writes. What it then reads is their own Trace, and what grades it their own `task.score`: every
`@vf.reward` with its weight, every `@vf.metric` beside them. Where they would go on after an error or leave a
reward out, here the attempt is a Failure.

What needs more than text is refused: containers and whatever wants a `runtime`, tool servers, `@vf.stop` and
`@vf.intercept`, several agents. That an answer was cut off by a limit is not known to their trace.
Their package is imported by the user's own file; rung does not depend on it. It splits nothing into training
and test: the first fifth of the tasks, at most 200, is held out, unless sizes are asked for.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import itertools
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from rung.envs.environment import Environment, Messages, Task
from rung.envs.generated import TEST_SIZE, TRAIN_SIZE
from rung.envs.play import task_of
from rung.envs.sequences import Tasks
from rung.envs.worlds import NotRepeatable, Worlds
from rung.errors import UserError
from rung.rewards.calling import failure_of, with_parts
from rung.rewards.score import Attempt, Failure, Verdict

SECONDS = 120.0  # that their side may take for one answer, or for its grade
TURNS = 10  # of the model, where their agent's `max_turns` is None


def from_taskset(
    name: str, theirs: Any, train_size: int | None = None, test_size: int | None = None
) -> Environment:
    """A rung environment from one of their Tasksets or Envs."""
    taskset = getattr(theirs, "taskset", theirs)
    env = theirs if taskset is not theirs and type(theirs).__name__ != "SingleAgentEnv" else None
    most = None if taskset.bounded else (train_size or TRAIN_SIZE) + (test_size or TEST_SIZE)
    tasks = list(itertools.islice(taskset, most))
    if not tasks:
        raise UserError(f"{name}: the taskset {type(taskset).__name__} has no task")
    seat, turns = seat_of(name, env)
    refuse(name, tasks[0], taskset, env)
    worlds = Worlds(lambda task: Conversation(env, seat, by_key[task.key]))
    fifth = min(TEST_SIZE, len(tasks) // 5)
    held_out = fifth if test_size is None else test_size
    test = Theirs(name, env, seat, tasks[:held_out])
    asked = {asks(task) for task in test.tasks}
    train = Theirs(
        name, env, seat, [task for task in tasks[held_out:] if asks(task) not in asked][:train_size]
    )
    by_key = {each.key_of(task): task for each in (train, test) for task in each.tasks}
    reply = worlds.reply if env is not None else None
    return Environment(name, train, test, TraceGrade(worlds), reply=reply, max_turns=turns)


def seat_of(name: str, env: Any) -> tuple[str, int]:
    """The name of the one agent that an Env declares, and how many turns it has."""
    if env is None:
        return "agent", 1
    agent = module("verifiers.v1").AgentConfig
    seats = {key: value for key, value in env.config if isinstance(value, agent)}
    if len(seats) != 1:
        raise UserError(
            f"{name}: {type(env).__name__} has the agents {', '.join(seats)}; rung plays one, so give the others a "
            "model inside the environment"
        )
    ((seat, config),) = seats.items()
    return seat, config.max_turns or TURNS


def refuse(name: str, task: Any, taskset: Any, env: Any) -> None:
    """What rung does not play, said before anything is played."""
    rewards = task.hooks("reward")
    wanting = inspect.Parameter.empty
    boxed = [
        f.__name__
        for f in (*rewards, *task.hooks("metric"))
        if (p := inspect.signature(f).parameters.get("runtime")) is not None and p.default is wanting
    ]
    intercepts = [f for kind in type(task).__mro__ for f in vars(kind).values() if hasattr(f, "intercept")]
    hooks = [*task.hooks("stop"), *intercepts]
    problem = ""
    if task.NEEDS_CONTAINER or boxed:
        problem = (
            f"{boxed[0] if boxed else type(task).__name__} wants a runtime, a machine to run programs on"
        )
    elif [*type(task).toolsets(task.config), *type(taskset).toolsets(taskset.config)]:
        problem = (
            "its tools are servers; give rung's own tools to a single-turn environment instead (tools=...)"
        )
    elif hooks:
        problem = f"{hooks[0].__name__} watches requests to a model, and rung makes none"
    elif not rewards and not task.config.judges and env is None:
        problem = f"{type(task).__name__} has no @vf.reward"
    if problem:
        raise UserError(
            f"{name}: {problem}; rung plays tasks and environments of verifiers that are text alone"
        )


@dataclass(frozen=True)
class Theirs(Tasks):
    """Their tasks as ours. One without a prompt is opened by its Env, which is asked when the task is."""

    name: str
    env: Any
    seat: str
    tasks: Sequence[Any]

    def __len__(self) -> int:
        return len(self.tasks)

    def key_of(self, task: Any) -> str:
        return f"{self.name}:{task.data.idx}"

    def task(self, index: int) -> Task:
        theirs = self.tasks[index]
        opening: Messages | None = seeds(theirs.data)
        if theirs.data.prompt is None:  # the Env opens the conversation
            conversation = Conversation(self.env, self.seat, theirs)
            opening = conversation.opening
            conversation.close()
            if not opening:
                raise UserError(
                    f"{self.key_of(theirs)}: has no prompt, and its environment says nothing first "
                    f"({conversation.failure or 'its run ends at once'})"
                )
        return Task(self.key_of(theirs), tuple(opening or ()), getattr(theirs.data, "answer", None))


def asks(task: Any) -> str:
    """What tells a task from others: how it begins, where that is known, else its own key."""
    return str(seeds(task.data)) if task.data.prompt is not None else str(task.key)


def seeds(data: Any) -> list[dict[str, Any]]:
    """The messages with which a task begins."""
    system = [{"role": "system", "content": data.system_prompt}] if data.system_prompt else []
    return system + [plain(message) for message in typed(data.prompt)]


def typed(message: Any) -> list[Any]:
    """A turn of theirs, which may be a text, messages, or dictionaries, as their messages."""
    if isinstance(message, str):
        return [module("verifiers.v1").UserMessage(content=message)]
    parse = module("verifiers.v1.dialects").parse_message
    return [parse(each) if isinstance(each, dict) else each for each in message or ()]


def plain(message: Any) -> dict[str, Any]:
    """Their message as ours; text alone."""
    parts = [message.content] if isinstance(message.content, str) else [p.text for p in message.content or ()]
    return {"role": message.role, "content": "\n".join(parts)}


class Conversation:
    """One episode of theirs, as a World; towards them it is the agent and the interaction with it."""

    trainable = True

    def __init__(self, env: Any, seat: str, task: Any):
        self.env, self.seat, self.task = env, seat, task
        self.trace: Any = None
        self.failure: Failure | None = None
        self.said: queue.SimpleQueue[list[dict[str, Any]] | None] = queue.SimpleQueue()  # by them
        self.heard: asyncio.Queue[str | None] = (
            asyncio.Queue()
        )  # by them, from the model; None: no turn is left
        self.ended = self.cut = False
        self.running = asyncio.run_coroutine_threadsafe(self.live(), loop())
        self.opening = self.answer()

    # ---- our side ----

    def say(self, text: str) -> Messages | None:
        if self.ended:
            return None
        self.hear(text)
        return self.answer()

    def verdict(self) -> Verdict:
        """The grade, after their side was told that no turn is left."""
        if not self.ended:
            self.hear(None)
        while not self.ended:
            self.answer()
        if self.failure is not None:
            return self.failure
        missing = [name for name, reward in self.trace.rewards.items() if reward is None]
        if missing or not self.trace.rewards:
            return Failure("invalid", f"no score for {', '.join(missing) or 'the trace'}")
        metrics = {name: value for name, value in self.trace.metrics.items() if value is not None}
        return with_parts(
            self.trace.reward, metrics | {name: reward.score for name, reward in self.trace.rewards.items()}
        )

    def close(self) -> None:
        self.running.cancel()

    def hear(self, text: str | None) -> None:
        loop().call_soon_threadsafe(self.heard.put_nowait, text)

    def answer(self) -> Messages | None:
        """What they say next; None when the episode is over, which it is for one that says nothing in time."""
        try:
            said = self.said.get(timeout=SECONDS)
        except queue.Empty:
            self.failure = Failure("timeout", f"the environment said nothing for {SECONDS:g} s")
            self.close()
            said = None
        self.ended = said is None
        return said

    # ---- their side ----

    async def live(self) -> None:
        try:
            if self.env is None:
                await self.run(self.task)
            else:
                agents = SimpleNamespace(**{self.seat: self})
                await self.env.setup(agents)
                await self.env.run(self.task, agents)
                if self.trace is None:
                    raise ValueError("its run() asked the agent for nothing")
                await self.env.finalize(self.task, episode_of(self.task, self.trace))
        except Exception as error:  # the user's code
            self.failure = self.failure or failure_of(error)
        finally:
            self.said.put(None)

    async def run(self, task: Any, **_: Any) -> Any:
        async with self.interaction(task) as one:
            await one.turn()
        return self.trace

    @asynccontextmanager
    async def interaction(self, task: Any, **_: Any) -> AsyncIterator[Conversation]:
        if self.trace is not None:
            raise RuntimeError("its agent is played twice in one episode; rung plays one conversation")
        self.task, self.trace = task, trace_of(task)
        await task.setup(self.trace, None)
        yield self
        self.trace.stop("user_closed")
        self.trace.ok = True
        await task.finalize(self.trace, None)
        await task.score(self.trace)

    async def turn(self, message: Any = None) -> Any:
        vf = module("verifiers.v1")
        first = not self.trace.nodes
        told = seeds(self.task.data) if first else []
        if self.cut:
            raise RuntimeError("the exchange is over; read interaction.trace")
        if (message is None) != (first and self.task.data.prompt is not None):
            raise ValueError(
                "a task with a prompt is opened by a bare turn(), and every other turn says something"
            )
        told += [plain(each) for each in typed(message)]
        self.said.put(told)
        text = await self.heard.get()
        if text is None:
            self.cut = True
            self.trace.stop("max_turns")
            return vf.Segment(messages=[], terminated=True)
        answer = vf.AssistantMessage(content=text)
        for each in (*typed(told), answer):
            parent = len(self.trace.nodes) - 1 if self.trace.nodes else None
            self.trace.nodes.append(vf.MessageNode(parent=parent, message=each, sampled=each is answer))
        return vf.Segment(messages=[answer])


def trace_of(task: Any) -> Any:
    """Their record of an episode that has not begun."""
    vf = module("verifiers.v1")
    return vf.Trace(
        task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        state=module("verifiers.v1.state").state_cls(type(task))(),
        agent=vf.AgentInfo(config=vf.AgentConfig()),
    )


def episode_of(task: Any, trace: Any) -> Any:
    vf = module("verifiers.v1")
    return vf.Episode(task=trace_of(task).task, traces=[trace])


@dataclass(frozen=True)
class TraceGrade:
    """What their trace was paid. Trusted, for it must run in this process: here the episodes are."""

    worlds: Worlds
    trusted: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        try:
            return self.worlds.grade(task_of(attempt), attempt.messages, lambda world: world.verdict())
        except NotRepeatable as error:
            return Failure("invalid", str(error))


def module(name: str) -> Any:
    """A module of their package, which whoever has one of its objects has."""
    return importlib.import_module(name)


@functools.cache
def loop() -> asyncio.AbstractEventLoop:
    """Where their coroutines run, whatever thread asks and whether or not it has a loop of its own."""
    made = asyncio.new_event_loop()
    threading.Thread(target=made.run_forever, daemon=True).start()
    return made
