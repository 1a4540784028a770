"""A taskset and an environment as a user of `verifiers` 0.4 writes them; what a test needs of it it names."""

import asyncio

import verifiers.v1 as vf

__all__ = ["Rising", "Sums"]


class Data(vf.TaskData):
    answer: str = ""


class Sum(vf.Task[Data, vf.State, vf.TaskConfig]):
    @vf.reward(weight=1.0)
    async def right(self, trace, task) -> float:
        await asyncio.sleep(0)
        return float(trace.last_reply == task.answer)

    @vf.reward(weight=0.5)
    async def short(self, trace) -> float:
        return float(len(trace.last_reply) < 10)

    @vf.metric
    async def turns(self, trace) -> float:
        return trace.num_turns


class Sums(vf.Taskset[Sum, vf.TasksetConfig]):
    def load(self):
        for i in range(10):
            yield Sum(Data(prompt=f"{i}+1?", answer=str(i + 1), system_prompt="Be brief."), self.config.task)


class RisingConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig(max_turns=4)


class Rising(vf.Env[RisingConfig]):
    """After the sum, say numbers that rise; "stop" ends it. The last number is what it pays."""

    async def run(self, task, agents):
        last = 0
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated and segment.last_reply != "stop":
                number = int(segment.last_reply)
                said, last = ("good" if number > last else "too low"), number
                segment = await interaction.turn(f"{said}, last {last}")
        interaction.trace.record_reward("last", float(last), 0.1)


class Deaf(Rising):
    """Goes on asking after it was told that no turn is left."""

    async def run(self, task, agents):
        async with agents.player.interaction(task) as interaction:
            await interaction.turn()
            while True:
                await interaction.turn("and?")


class Hooked(Sum):
    async def setup(self, trace, runtime):
        trace.info["hooks"] = ["task setup"]

    async def finalize(self, trace, runtime):
        trace.info["hooks"] += [trace.stop_condition, "task finalize", [n.sampled for n in trace.nodes]]


class Silent(Rising):
    """Pays nothing, and lets its hooks leave a mark."""

    async def setup(self, agents):
        self.seen = [agents.player.trainable]

    async def run(self, task, agents):
        async with agents.player.interaction(task) as interaction:
            await interaction.turn()

    async def finalize(self, task, episode):
        (trace,) = episode.traces
        self.seen += [trace.info.get("hooks"), trace.ok, episode.task.data.answer]


class TwoConfig(RisingConfig):
    judge: vf.AgentConfig = vf.AgentConfig()


class Two(vf.Env[TwoConfig]):
    async def run(self, task, agents):
        pass


class Unasked(Sums):
    """Tasks without a prompt: the environment speaks first."""

    def load(self):
        for task in super().load():
            yield task.with_data(prompt=None)


class Opens(Rising):
    async def run(self, task, agents):
        async with agents.player.interaction(task) as interaction:
            await interaction.turn([{"role": "user", "content": f"What comes before {task.data.answer}?"}])


class Broken(Sum):
    @vf.reward
    async def lost(self, trace) -> float:
        raise KeyError("gold")


class Boxed(Sum):
    @vf.reward
    async def ran(self, trace, runtime) -> float:
        return 1.0


class Unpaid(vf.Task[Data, vf.State, vf.TaskConfig]):
    pass


class Stopped(Sum):
    @vf.stop
    async def enough(self, trace: vf.Trace) -> bool:
        return True


class Rewriting(Sum):
    @vf.intercept
    async def rewrite(self, request: vf.Request) -> None:
        return None


class Contained(Sum):
    NEEDS_CONTAINER = True


class Served(Sum):
    @classmethod
    def toolsets(cls, config):
        return [object()]


class Slow(Sum):
    @vf.reward
    async def asleep(self, trace) -> float:
        await asyncio.sleep(1000)
        return 1.0


def of(kind, count=10):
    """A taskset of another kind of task."""

    class Others(vf.Taskset[kind, vf.TasksetConfig]):
        def load(self):
            for i in range(count):
                yield kind(Data(prompt=f"{i}+1?", answer=str(i + 1)), self.config.task)

    return Others(vf.TasksetConfig())


def sums():
    return Sums(vf.TasksetConfig())


def rising(kind=Rising, config=RisingConfig):
    return kind(config(taskset=vf.TasksetConfig(id="verifiers_sums")))


def opens():
    made = rising(Opens)
    made.taskset = Unasked(vf.TasksetConfig())
    return made


def two():
    return rising(Two, TwoConfig)
