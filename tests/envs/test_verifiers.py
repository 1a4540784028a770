"""Environments of the `verifiers` package, faked after its public interface (0.1.x)."""

import pytest

from rung.envs.load import load_environment
from rung.envs.play import play
from rung.envs.verifiers import from_verifiers
from rung.errors import UserError
from rung.rewards.score import Failure, Score


class Parser:
    def parse_answer(self, completion):
        return completion[-1]["content"].strip()


class Rubric:
    def __init__(self, funcs, weights=None):
        self.funcs, self.weights, self.parser = funcs, weights or [1.0] * len(funcs), Parser()


class RubricGroup:
    def __init__(self, rubrics):
        self.rubrics = rubrics


async def right(completion, answer, parser, **kwargs) -> float:
    return float(parser.parse_answer(completion) == answer)


def short(completion) -> float:
    return float(len(completion[-1]["content"]) < 10)


def turns(state) -> float:
    return float(len(state["trajectory"]))


class SingleTurn:
    system_prompt = "Be brief."

    def __init__(self):
        self.dataset = [{"question": f"{i}+1?", "answer": str(i + 1), "info": {"i": i}} for i in range(6)]
        self.eval_dataset = [{"question": "0+1?", "answer": "1"}]
        self.rubric = RubricGroup([Rubric([right, short], [1.0, 0.5])])


class Rising(SingleTurn):
    """Say a number above the last one; three times ends it. State is kept by the environment, as theirs does."""

    max_turns = 5

    def __init__(self):
        super().__init__()
        self.rubric = Rubric([turns])

    async def setup_state(self, state):
        state["last"] = 0
        return state

    async def is_completed(self, state):
        return len(state["trajectory"]) >= 3

    async def env_response(self, messages, state, **kwargs):
        number = int(messages[-1]["content"])
        said = "good" if number > state["last"] else "too low"
        state["last"] = number
        return [{"role": "user", "content": f"{said}, last {state['last']}"}]


class Older(Rising):
    """Older releases: is_completed gets the messages too, env_response gives the state back."""

    async def is_completed(self, messages, state, **kwargs):
        return sum(m["role"] == "assistant" for m in messages) >= 3

    def env_response(self, messages, state, **kwargs):
        number = int(messages[-1]["content"])
        said = "good" if number > state["last"] else "too low"
        return [{"role": "user", "content": f"{said}, last {number}"}], {**state, "last": number}


def test_a_rubric_is_its_weighted_sum_with_every_part():
    environment = from_verifiers("sums", SingleTurn())
    task = environment.train[0]
    assert task.key == "sums:train:1" and task.messages[0] == {"role": "system", "content": "Be brief."}
    assert play(environment, task, ["2"])[1] == Score(1.5, {"right": 1.0, "short": 1.0})
    assert play(environment, task, ["it is two, I think"])[1] == Score(0.0, {"right": 0.0, "short": 0.0})


def test_training_rows_that_are_in_the_test_set_are_left_out():
    environment = from_verifiers("sums", SingleTurn())
    assert len(environment.train) == 5 and len(environment.test) == 1
    assert environment.train[0].extra["info"] == {"i": 1}


@pytest.mark.parametrize("kind", [Rising, Older])
def test_replies_and_state_go_on_from_turn_to_turn(kind):
    environment = from_verifiers("rising", kind())
    attempt, verdict = play(environment, environment.train[0], ["5", "3", "4", "9"])
    assert [m["content"] for m in attempt.messages if m["role"] == "user"] == [
        "good, last 5",
        "too low, last 3",
    ]
    assert verdict == Score(3.0, {"turns": 3.0}) and environment.max_turns == 5


def test_a_second_rollout_and_a_regrading_see_their_own_state():
    environment = from_verifiers("rising", Rising())
    first, _ = play(environment, environment.train[0], ["5", "3", "4"])
    second, _ = play(environment, environment.train[0], ["5", "7", "8"])
    assert second.messages[3]["content"] == "good, last 7"
    assert environment.reward(first) == environment.reward(first) == Score(3.0, {"turns": 3.0})


def test_tool_calls_in_the_text_reach_them_in_openais_form():
    class Tools(SingleTurn):
        max_turns, oai_tools = 3, [{"type": "function", "function": {"name": "add"}}]

        def is_completed(self, state):
            return "tool_calls" not in state["trajectory"][-1]["completion"][-1]

        def env_response(self, messages, state):
            call = messages[-1]["tool_calls"][0]
            return [{"role": "tool", "content": call["function"]["arguments"], "tool_call_id": call["id"]}]

    def calls(completion):
        return float(sum(len(m.get("tool_calls") or ()) for m in completion))

    theirs = Tools()
    theirs.rubric = Rubric([calls])
    called = from_verifiers("tools", theirs)
    environment = from_verifiers("tools", Tools())
    text = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    attempt, verdict = play(environment, environment.train[0], [text, "2"])
    assert attempt.messages[1] == {"role": "tool", "content": '{"a": 1}', "tool_call_id": "call_0"}
    assert play(called, called.train[0], [text, text, "2"])[1].value == 2
    assert verdict.value == 1.5 and environment.tools[0]["function"]["name"] == "add"


def test_what_they_would_say_after_the_last_turn_is_not_graded():
    class Endless(Rising):
        max_turns = 2

        def __init__(self):
            super().__init__()
            self.rubric = Rubric([lambda completion: float(completion[-1]["content"])])

        async def is_completed(self, state):
            return False

    environment = from_verifiers("endless", Endless())
    assert play(environment, environment.train[0], ["5", "6", "7"])[1].value == 6


def test_a_function_that_raises_is_a_failure_and_not_a_nought():
    def broken(completion):
        raise KeyError("gold")

    theirs = SingleTurn()
    theirs.rubric = Rubric([short, broken])
    environment = from_verifiers("sums", theirs)
    verdict = play(environment, environment.train[0], ["2"])[1]
    assert isinstance(verdict, Failure) and "broken: KeyError" in verdict.detail
    theirs.rubric = Rubric([lambda completion: float("nan")])
    environment = from_verifiers("sums", theirs)
    assert play(environment, environment.train[0], ["2"])[1].kind == "invalid"


def test_what_cannot_be_adapted_is_refused():
    theirs = SingleTurn()
    theirs.rubric = Rubric([lambda completions, answers: [0.0]])
    with pytest.raises(UserError, match="scores a whole group at once"):
        from_verifiers("group", theirs)
    theirs.rubric = Rubric([])
    with pytest.raises(UserError, match="no reward function"):
        from_verifiers("empty", theirs)


def test_coroutines_are_waited_for_where_a_loop_runs_already():
    import asyncio

    async def inside():
        environment = from_verifiers("rising", Rising())
        return play(environment, environment.train[0], ["5", "6", "7"])[1]

    assert asyncio.run(inside()) == Score(3.0, {"turns": 3.0})


MODULE = """
from rung.envs.environment import Environment, Task
from rung.rewards.matching import Exact

class Theirs:
    dataset = [{"question": "1+1?", "answer": "2"}]
    class rubric:
        funcs = [lambda completion, answer: float(completion[-1]["content"] == answer)]

def load_environment():
    return Theirs()

def mine(count: int = 3, seed: int = 0):
    tasks = [Task(f"mine:{i + seed}", ({"role": "user", "content": f"say {i}"},), str(i)) for i in range(count)]
    return Environment("mine", tasks, [], Exact())

def nothing():
    return 3
"""


def test_files_of_the_user(tmp_path):
    file = tmp_path / "world.py"
    file.write_text(MODULE)
    theirs = load_environment(f"{file}")
    assert play(theirs, theirs.train[0], ["2"])[1].value == 1 and theirs.train[0].key == "world:train:0"
    mine = load_environment(f"{file}:mine?count=5", seed=7, train_size=4)
    assert [t.key for t in mine.train] == ["mine:7", "mine:8", "mine:9", "mine:10"]
    with_tool = load_environment(f"{file}:mine?count=5&tools=calculator")
    assert with_tool.max_turns == 4
    for spec, says in (
        (f"{file}:mine?number=5", "no option 'number'"),
        (f"{file}:mine?count=five", "not of the kind int"),
        (f"{file}:yours", "no function 'yours'"),
        (f"{file}:nothing", "returned int"),
        (f"{tmp_path}/none.py:f", "no file"),
    ):
        with pytest.raises(UserError, match=says):
            load_environment(spec)
    (tmp_path / "broken.py").write_text("import nowhere_at_all")
    with pytest.raises(UserError, match="cannot be loaded: ModuleNotFoundError"):
        load_environment(f"{tmp_path}/broken.py:f")
