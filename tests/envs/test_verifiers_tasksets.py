"""Tasksets and environments of `verifiers` 0.4: of the package where it is installed, else of its stand-in."""

import asyncio
import itertools
import textwrap

import pytest
import verifiers_v1_case

verifiers_v1_case.install()

import verifiers.v1 as vf  # noqa: E402
import verifiers_sums as theirs  # noqa: E402

from rung.envs import verifiers_tasksets  # noqa: E402
from rung.envs.load import load_environment  # noqa: E402
from rung.envs.play import play  # noqa: E402
from rung.envs.verifiers_tasksets import from_taskset  # noqa: E402
from rung.errors import UserError  # noqa: E402
from rung.rewards.score import Failure, Score  # noqa: E402


def test_a_task_is_paid_the_weighted_sum_of_its_coroutines_with_every_part():
    environment = from_taskset("sums", theirs.sums())
    task = environment.train[0]
    assert environment.reply is None and environment.max_turns == 1 and environment.reward.trusted
    assert task.key == "sums:2" and task.reference == "3"
    assert task.messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+1?"})
    parts = {"right": 1.0, "short": 1.0, "turns": 1.0}
    assert play(environment, task, ["3"])[1] == Score(1.5, parts)
    assert play(environment, task, ["4"])[1] == Score(0.5, parts | {"right": 0.0})
    assert play(environment, task, ["I think it is 3"])[1] == Score(0.0, parts | {"right": 0.0, "short": 0.0})


def test_the_first_fifth_is_held_out_and_sizes_are_kept():
    environment = from_taskset("sums", theirs.sums())
    assert [task.key for task in environment.test] == ["sums:0", "sums:1"] and len(environment.train) == 8
    sized = from_taskset("sums", theirs.sums(), train_size=3, test_size=4)
    assert [task.key for task in sized.train] == ["sums:4", "sums:5", "sums:6"] and len(sized.test) == 4
    nine = from_taskset("nine", theirs.of(theirs.Sum, 9))
    assert len(nine.test) == 1 and len(nine.train) == 8
    everything = from_taskset("sums", theirs.sums(), test_size=0)
    assert len(everything.train) == 10 and not everything.test


def test_tasks_that_are_held_out_are_no_training_tasks():
    class Twice(theirs.Sums):
        def load(self):
            return [*super().load(), *super().load()]

    made = from_taskset("twice", Twice(vf.TasksetConfig()), test_size=3)
    held_out = {str(task.messages) for task in made.test}
    assert len(made.train) == 20 - 2 * 3 and not held_out & {str(task.messages) for task in made.train}


def test_tasksets_without_end_give_as_many_as_are_asked_for():
    class Endless(theirs.Sums):
        INFINITE, bounded = True, False

        def load(self):
            (first, *_) = super().load()
            return (first.with_data(prompt=f"{i}+1?") for i in itertools.count())

    made = from_taskset("endless", Endless(vf.TasksetConfig()), train_size=30, test_size=5)
    assert len(made.train) == 30 and len(made.test) == 5


def test_an_environment_speaks_between_turns_and_its_trace_is_what_is_paid():
    environment = from_taskset("rising", theirs.rising())
    assert environment.max_turns == 4
    attempt, verdict = play(environment, environment.train[0], ["3", "2", "5", "stop"])
    said = [message["content"] for message in attempt.messages if message["role"] == "user"]
    assert said == ["good, last 3", "too low, last 2", "good, last 5"]
    parts = {"turns": 4.0, "right": 0.0, "short": 1.0, "last": 5.0}
    assert verdict == Score(0.5 + 0.1 * 5, parts)
    cut, verdict = play(environment, environment.train[0], ["3", "4", "5", "7", "9"])
    assert (
        len(cut.messages) == 7 and verdict.parts["last"] == 7.0
    )  # the fourth turn counts, and none behind it


def test_rollouts_that_share_a_beginning_do_not_share_a_world_and_grades_repeat():
    environment = from_taskset("rising", theirs.rising())
    task = environment.train[0]
    first, one = play(environment, task, ["5", "3", "stop"])
    second, other = play(environment, task, ["5", "7", "stop"])
    assert second.messages[3]["content"] == "good, last 7"
    assert (one.parts["last"], other.parts["last"]) == (3.0, 7.0)
    assert environment.reward(first) == environment.reward(first) == one


def test_an_environment_may_open_the_conversation():
    environment = from_taskset("opens", theirs.opens())
    task = environment.train[0]
    assert [m["content"] for m in task.messages] == ["Be brief.", "What comes before 3?"]
    attempt, verdict = play(environment, task, ["3"])
    assert verdict.value == 1.5 and attempt.messages == ({"role": "assistant", "content": "3"},)


def test_a_single_agent_s_environment_is_its_taskset():
    config = vf.SingleAgentEnvConfig(taskset=vf.TasksetConfig(id="verifiers_sums"))
    environment = from_taskset("sums", vf.SingleAgentEnv(config))
    assert environment.reply is None and play(environment, environment.train[0], ["3"])[1].value == 1.5


def test_what_raises_is_a_failure_and_never_a_nought():
    environment = from_taskset("broken", theirs.of(theirs.Broken))
    verdict = play(environment, environment.train[0], ["3"])[1]
    assert isinstance(verdict, Failure) and "KeyError: 'gold'" in verdict.detail
    rising = from_taskset("rising", theirs.rising())
    verdict = play(rising, rising.train[0], ["three"])[1]
    assert isinstance(verdict, Failure) and "invalid literal" in verdict.detail


def test_what_never_answers_is_a_failure_in_time(monkeypatch):
    monkeypatch.setattr(verifiers_tasksets, "SECONDS", 0.3)
    environment = from_taskset("slow", theirs.of(theirs.Slow))
    verdict = play(environment, environment.train[0], ["3"])[1]
    assert verdict == Failure("timeout", "the environment said nothing for 0.3 s")


def test_an_answer_that_comes_differently_again_is_no_grade():
    environment = from_taskset("rising", theirs.rising())
    attempt, _ = play(environment, environment.train[0], ["5", "7", "stop"])
    forged = [dict(message) for message in attempt.messages]
    forged[1]["content"] = "well done"
    verdict = environment.reward(type(attempt)(**{**vars(attempt), "messages": tuple(forged)}))
    assert (
        isinstance(verdict, Failure)
        and "not be trusted" not in verdict.detail
        and "answered" in verdict.detail
    )


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (theirs.two, "agents player, judge"),
        (lambda: theirs.of(theirs.Boxed), "ran wants a runtime"),
        (lambda: theirs.of(theirs.Unpaid), "has no @vf.reward"),
        (lambda: theirs.of(theirs.Stopped), "enough watches"),
        (lambda: theirs.of(theirs.Rewriting), "rewrite watches"),
        (lambda: theirs.of(theirs.Served), "tools are servers"),
        (lambda: theirs.of(theirs.Sum, 0), "has no task"),
        (lambda: theirs.of(theirs.Contained), "Contained wants a runtime"),
    ],
)
def test_what_is_more_than_text_is_refused_before_anything_is_played(made, says):
    with pytest.raises(UserError, match=says):
        from_taskset("mine", made())


def test_an_environment_that_asks_on_after_the_last_turn_is_a_failure():
    environment = from_taskset("deaf", theirs.rising(theirs.Deaf))
    verdict = play(environment, environment.train[0], ["1", "2", "3", "4"])[1]
    assert isinstance(verdict, Failure) and "exchange is over" in verdict.detail


def test_hooks_of_task_and_environment_are_called_in_their_order():
    made = theirs.rising(theirs.Silent)
    made.taskset = theirs.of(theirs.Hooked)
    environment = from_taskset("hooks", made)
    verdict = play(environment, environment.train[0], ["3"])[1]
    hooks = ["task setup", "user_closed", "task finalize", [False, True]]
    assert made.seen == [True, hooks, True, "3"]
    assert verdict.value == 1.5


def test_an_episode_that_nobody_paid_has_no_score():
    made = theirs.rising(theirs.Silent)
    made.taskset = theirs.of(theirs.Unpaid)
    environment = from_taskset("unpaid", made)
    assert play(environment, environment.train[0], ["3"])[1] == Failure("invalid", "no score for the trace")


def test_an_environment_that_never_asks_cannot_open_a_conversation():
    class Mute(theirs.Rising):
        async def run(self, task, agents):
            pass

    made = theirs.rising(Mute)
    environment = from_taskset("mute", made)
    assert "asked the agent for nothing" in play(environment, environment.train[0], ["3"])[1].detail
    made.taskset = theirs.Unasked(vf.TasksetConfig())
    with pytest.raises(UserError, match="says nothing first"):
        from_taskset("mute", made).train[0]


def test_where_a_loop_runs_already():
    async def inside():
        environment = from_taskset("rising", theirs.rising())
        return play(environment, environment.train[0], ["3", "stop"])[1]

    assert asyncio.run(inside()).parts["last"] == 3.0


def test_a_user_s_file_may_return_one(tmp_path):
    file = tmp_path / "mine.py"
    body = """
    import verifiers_sums

    def load_environment():
        return verifiers_sums.sums()

    def game():
        return verifiers_sums.rising()
    """
    file.write_text(textwrap.dedent(body))
    sums = load_environment(f"{file}", train_size=4, test_size=2)
    assert len(sums.train) == 4 and sums.train[0].key == "mine:2"
    assert play(sums, sums.train[0], ["3"])[1].value == 1.5
    assert load_environment(f"{file}:game").max_turns == 4
