"""The part of `verifiers.v1` (0.4.0) that its users' files and our adapter touch, written anew from its public names.

`install()` puts it where `import verifiers.v1` finds it, unless the package itself is there: then the same tests
are run against that. To do so:  pip install verifiers==0.4.0  and  pytest tests/envs/test_verifiers_tasksets.py
"""

import asyncio
import importlib
import importlib.util
import inspect
import itertools
import sys
import types


class Fields:
    """A frozen pydantic model, as far as it goes: annotated fields with defaults, given by keyword."""

    def __init__(self, **given):
        known = [
            name for kind in reversed(type(self).__mro__) for name in vars(kind).get("__annotations__", {})
        ]
        assert set(given) <= set(known), f"no field {set(given) - set(known)}"
        for name in dict.fromkeys(known):
            default = getattr(type(self), name, None)
            self.__dict__[name] = given.get(name, default() if default in (list, dict) else default)

    def __class_getitem__(cls, _):
        return cls

    def __iter__(self):
        return iter(vars(self).items())

    def model_copy(self, update):
        return type(self)(**{**vars(self), **update})


class TaskConfig(Fields):
    judges: list = list


class AgentConfig(Fields):
    max_turns: int = None


class TasksetConfig(Fields):
    id: str = ""
    task: TaskConfig = TaskConfig()


class EnvConfig(Fields):
    taskset: TasksetConfig = TasksetConfig()


class TaskData(Fields):
    idx: int = None
    prompt: str = None
    system_prompt: str = None


class State(Fields):
    pass


class SystemMessage(Fields):
    role: str = "system"
    content: str


class UserMessage(Fields):
    role: str = "user"
    content: str


class AssistantMessage(Fields):
    role: str = "assistant"
    content: str


class MessageNode(Fields):
    parent: int = None
    message: object
    sampled: bool = False


class Segment(Fields):
    messages: list
    terminated: bool = False

    @property
    def last_reply(self):
        return self.messages[-1].content.strip() if self.messages else ""


class TraceTask(Fields):
    type: str
    data: TaskData
    key: str
    hash: str


class AgentInfo(Fields):
    config: AgentConfig


class Reward(Fields):
    score: float
    weight: float


class Episode(Fields):
    task: TraceTask
    traces: list


class Trace(Fields):
    task: TraceTask
    state: State
    agent: AgentInfo
    nodes: list = list
    rewards: dict = dict
    metrics: dict = dict
    info: dict = dict
    ok: bool = False
    stop_condition: str = None

    @property
    def reward(self):
        return sum(r.score * r.weight for r in self.rewards.values() if r is not None)

    @property
    def num_turns(self):
        return sum(node.sampled for node in self.nodes)

    @property
    def last_reply(self):
        said = [node.message.content for node in self.nodes if node.sampled]
        return said[-1].strip() if said else ""

    def record_reward(self, name, value, weight=1.0):
        self.rewards[name] = Reward(score=float(value), weight=weight)

    def stop(self, condition):
        self.stop_condition = self.stop_condition or condition


class TaskError(Exception):
    pass


def mark(**marks):
    def decorate(function=None, **more):
        if function is None:
            return lambda f: decorate(f, **more)
        function.__dict__.update(marks | {f"_vf_{key}": value for key, value in more.items()})
        return function

    return decorate


class Task:
    NEEDS_CONTAINER = False

    def __init__(self, data, config=None):
        self.data, self.config = data, config or TaskConfig()

    def __class_getitem__(cls, _):
        return cls

    @property
    def hash(self):
        return str(sorted((k, str(v)) for k, v in vars(self.data).items()))

    key = hash

    def with_data(self, **update):
        return type(self)(self.data.model_copy(update), self.config)

    @classmethod
    def toolsets(cls, config):
        return []

    async def setup(self, trace, runtime): ...
    async def finalize(self, trace, runtime): ...

    def hooks(self, what):
        names = sorted(n for kind in type(self).__mro__ for n, f in vars(kind).items() if hasattr(f, what))
        return [getattr(self, name) for name in dict.fromkeys(names)]

    async def score(self, trace, runtime=None):
        def called(function):
            takes = inspect.signature(function).parameters
            return function(**{k: v for k, v in {"task": self.data, "trace": trace}.items() if k in takes})

        metrics, rewards = self.hooks("metric"), self.hooks("reward")
        trace.rewards.update({f.__name__: None for f in rewards})
        try:
            values = await asyncio.gather(*map(called, metrics))
            trace.metrics.update({f.__name__: float(v) for f, v in zip(metrics, values, strict=True)})
            values = await asyncio.gather(*map(called, rewards))
        except Exception as error:
            raise TaskError(f"scoring: {type(error).__name__}: {error}") from error
        for function, value in zip(rewards, values, strict=True):
            trace.record_reward(function.__name__, value, getattr(function, "_vf_weight", 1.0))


class Taskset:
    bounded = True

    def __init__(self, config):
        self.config = config

    def __class_getitem__(cls, _):
        return cls

    @classmethod
    def toolsets(cls, config):
        return []

    def __iter__(self):
        return (task.with_data(idx=idx) for idx, task in zip(itertools.count(), self.load(), strict=False))


class Env:
    def __init__(self, config):
        self.config = config
        module = importlib.import_module(config.taskset.id)
        [kind] = [k for n in module.__all__ if issubclass(k := getattr(module, n), Taskset)]
        self.taskset = kind(config.taskset)

    def __class_getitem__(cls, _):
        return cls

    async def setup(self, agents): ...
    async def finalize(self, task, episode): ...


class SingleAgentEnv(Env):
    async def run(self, task, agents):
        await agents.agent.run(task)


class SingleAgentEnvConfig(EnvConfig):
    agent: AgentConfig = AgentConfig()


def parse_message(message):
    kinds = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    return kinds[message["role"]](**message)


def install():
    if importlib.util.find_spec("verifiers") is not None:
        return
    package, v1 = types.ModuleType("verifiers"), types.ModuleType("verifiers.v1")
    state, dialects = types.ModuleType("verifiers.v1.state"), types.ModuleType("verifiers.v1.dialects")
    v1.__dict__.update({name: kind for name, kind in globals().items() if isinstance(kind, type)})
    for what in ("reward", "metric", "stop", "intercept"):
        setattr(v1, what, mark(**{what: True}))
    v1.Request = object
    state.state_cls, dialects.parse_message = lambda kind: State, parse_message
    package.v1 = v1
    for module in (package, v1, state, dialects):
        sys.modules[module.__name__] = module
