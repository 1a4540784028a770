"""OpenEnv-style worlds, faked after the package's public interface: state between steps, replay, sums of rewards."""

import random
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from rung.envs.openenv import openenv_environment, text_of
from rung.envs.play import model_turns, play
from rung.errors import UserError
from rung.rewards.score import Failure, Score


@dataclass
class Observation:
    """As the package's: what is seen, with reward and done on it."""

    text: str
    reward: float | None = None
    done: bool = False


class Counter:
    """Add up to exactly ten from a seeded start; each step costs 0.1, reaching ten pays 1."""

    opened = 0
    steps = 0
    closed = 0

    def __init__(self):
        type(self).opened += 1

    def reset(self, seed=None, episode_id=None):
        self.total = random.Random(seed).randint(0, 5)
        return Observation(f"total {self.total}")

    def step(self, action, timeout_s=None):
        type(self).steps += 1
        self.total += action
        return Observation(f"total {self.total}", (1 if self.total == 10 else 0) - 0.1, self.total >= 10)

    def close(self):
        type(self).closed += 1


class Client(Counter):
    """As a client's: results around the observation, the first without a reward."""

    def reset(self, **keywords):
        return SimpleNamespace(observation=super().reset(**keywords), reward=None, done=False)

    def step(self, action, timeout_s=None):
        seen = super().step(action)
        return SimpleNamespace(observation=Observation(seen.text), reward=seen.reward, done=seen.done)


@pytest.fixture(params=[Counter, Client])
def made(request):
    class Fresh(request.param):
        opened = steps = closed = 0

    return Fresh, openenv_environment("count", Fresh, int, train_size=20, test_size=5, max_turns=6)


def start(task) -> int:
    return int(task.messages[0]["content"].split()[-1])


def test_an_episode_is_the_sum_of_its_rewards(made):
    _, environment = made
    task = environment.train[3]
    attempt, verdict = play(environment, task, ["1", "1", str(8 - start(task)), "never said"])
    assert verdict.value == pytest.approx(0.7) and verdict.parts == {"steps": 3}
    assert [m["content"] for m in attempt.messages if m["role"] == "user"] == [
        f"total {start(task) + 1}",
        f"total {start(task) + 2}",
    ]


def test_an_episode_cut_by_the_turn_limit_counts_its_last_turn(made):
    _, environment = made
    environment = replace(environment, max_turns=2)
    attempt, verdict = play(environment, environment.train[0], ["1", "2", "3"])
    assert len(model_turns(attempt.messages)) == 2 and verdict.parts == {"steps": 2}
    assert verdict.value == pytest.approx(-0.2)


def test_each_turn_is_one_step_and_every_world_is_closed(made):
    world, environment = made
    task = environment.train[1]
    world.opened = world.steps = world.closed = 0
    play(environment, task, ["1", "1", "1", str(7 - start(task))])
    assert (world.opened, world.steps, world.closed) == (1, 4, 1)


def test_an_episode_cut_by_the_turn_limit_is_graded_in_the_world_it_was_played_in(made):
    world, environment = made
    environment = replace(environment, max_turns=3)
    task = environment.train[1]
    world.opened = world.steps = world.closed = 0
    attempt, verdict = play(environment, task, ["1", "1", "1", "1"])
    assert (world.opened, world.steps, world.closed) == (1, 3, 1) and verdict.parts == {"steps": 3}
    assert environment.reward(attempt) == verdict  # replayed, now that its world is closed
    assert (world.opened, world.steps, world.closed) == (2, 6, 2)


def test_rollouts_of_one_task_that_begin_alike_do_not_share_a_world(made):
    _, environment = made
    task = environment.train[2]
    talks = [[*task.messages], [*task.messages]]
    for said in ("1", "1", "2"):  # in step, as a group of rollouts goes
        answers = []
        for talk in talks:
            talk.append({"role": "assistant", "content": said})
            answers.append(environment.reply(task, talk))
            talk += answers[-1]
        assert answers[0] == answers[1]
    assert answers[0][0]["content"] == f"total {start(task) + 4}"


def test_a_resumed_run_replays_the_world(made):
    world, environment = made
    task = environment.train[2]
    talk = play(environment, task, ["1", "2"])[0]
    resumed = openenv_environment("count", world, int, train_size=20, test_size=5, max_turns=6)
    conversation = [*task.messages, *talk.messages, {"role": "assistant", "content": "1"}]
    assert resumed.reply(task, conversation)[0]["content"] == f"total {start(task) + 4}"


def test_a_world_that_answers_otherwise_the_second_time_is_a_failure():
    class Moody(Counter):
        def step(self, action, timeout_s=None):
            seen = super().step(action)
            return Observation(f"{seen.text} {type(self).steps}", seen.reward, seen.done)

    environment = openenv_environment("moody", Moody, int, train_size=5, test_size=1)
    attempt, verdict = play(environment, environment.train[0], ["1", "1", "1"])
    assert isinstance(verdict, Score)
    again = environment.reward(attempt)  # its world is closed, so it is played again
    assert isinstance(again, Failure) and "seed it from the task" in again.detail


def test_training_and_test_worlds_have_other_seeds():
    one, two = (
        openenv_environment("count", Counter, int, seed=s, train_size=30, test_size=30) for s in (0, 1)
    )
    seeds = [{t.extra["seed"] for t in part} for part in (one.train, two.train, one.test)]
    assert not seeds[0] & seeds[1] and not (seeds[0] | seeds[1]) & seeds[2]
    assert one.train[4] == one.train[4] and one.train[4].key == "count:train:4"


def test_an_asynchronous_client_is_asked_for_its_synchronous_side():
    class Asynchronous:
        """As `openenv.core` 0.3's clients: coroutines, and `sync()` for who has no loop."""

        async def reset(self, **keywords): ...
        async def step(self, action): ...
        async def close(self): ...
        def sync(self):
            return Client()

    environment = openenv_environment("count", Asynchronous, int, train_size=2, test_size=1)
    task = environment.train[0]
    assert play(environment, task, [str(10 - start(task))])[1].value == pytest.approx(0.9)
    del Asynchronous.sync
    with pytest.raises(UserError, match="sync"):
        environment.train[0]


def test_the_model_does_not_read_what_it_was_paid():
    @dataclass
    class Board:
        board: list
        turn: int
        reward: float | None = None
        done: bool = False
        metadata: dict | None = None

    assert text_of(Board([1, 2], 3, 0.5, True, {"answer": 7})) == '{"board": [1, 2], "turn": 3}'
    assert text_of({"total": 3, "reward": 1.0, "done": False}) == '{"total": 3}'
    assert text_of({"message": "hello", "other": 1}) == text_of("hello") == "hello"
    assert text_of(SimpleNamespace(_board=1, text="é", reward=1)) == "é" and text_of(3) == "3"
