"""Tools: what they answer to right and wrong calls, and how an episode with them is graded."""

import json
import shutil
from dataclasses import replace

import pytest

from rung.envs.load import load_environment
from rung.envs.play import play
from rung.envs.tool_calls import Broken, Call
from rung.envs.toolbox import Index, calculator, python, search
from rung.envs.tools import LONGEST, AfterTools, Tool, ToolError, answer, with_tools
from rung.rewards.score import Score


def call(expression: str) -> str:
    return f'<tool_call>{{"name": "calculator", "arguments": {{"expression": "{expression}"}}}}</tool_call>'


@pytest.fixture
def environment():
    return load_environment("arithmetic?tools=calculator&max_turns=3")


def test_a_call_is_answered_and_the_answer_graded(environment):
    task = environment.example.task
    attempt, verdict = play(environment, task, [call("40 + 1"), "Answer: 41"])
    assert [m["role"] for m in attempt.messages] == ["assistant", "tool", "assistant"]
    assert attempt.messages[1] == {"role": "tool", "name": "calculator", "content": "41"}
    assert verdict.value == 1 and verdict.parts == {"tool_calls": 1, "tool_errors": 0}


def test_several_calls_of_one_turn_are_answered_in_order(environment):
    attempt, _ = play(
        environment, environment.example.task, [call("1+1") + call("2+2") + call("1/0"), "Answer: 41"]
    )
    assert [m["content"] for m in attempt.messages[1:4]][:2] == ["2", "4"]
    assert attempt.messages[3]["content"].startswith("Error: division by zero")


def test_a_call_in_the_last_turn_is_no_answer(environment):
    """Nor is the number in it: 41 stands in the call and would be read as the last number."""
    attempt, verdict = play(environment, environment.example.task, [call("41")] * 5)
    assert (
        len(attempt.messages) == 5 and attempt.messages[-1]["role"] == "assistant"
    )  # three turns, two results
    assert verdict.value == 0 and verdict.parts["tool_calls"] == 3


def test_an_answer_without_a_call_ends_the_episode(environment):
    attempt, verdict = play(environment, environment.example.task, ["Answer: 41", call("1+1")])
    assert len(attempt.messages) == 1 and verdict.value == 1


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Broken("No."), "Error: No."),
        (Call("calculate", {}), "there is no tool 'calculate'. There is calculator."),
        (Call("calculator", {}), "needs the argument 'expression'"),
        (Call("calculator", {"expression": "1", "base": 2}), "no argument 'base'"),
        (Call("calculator", {"expression": 12}), "must be of type string"),
        (Call("calculator", {"expression": "x"}), "'x' is not arithmetic"),
        (Call("calculator", {"expression": "2*21"}), "42"),
    ],
)
def test_what_a_tool_answers(made, says):
    message = answer(made, {"calculator": calculator()})
    assert message["role"] == "tool" and says in message["content"]


def test_types_of_arguments_are_those_of_json():
    kinds = {
        "n": {"type": "integer"},
        "x": {"type": "number"},
        "b": {"type": "boolean"},
        "e": {"enum": ["p", "q"]},
    }
    tool = Tool("t", "", kinds, {}, lambda n, x, b, e: "ok")
    good = {"n": 1, "x": 1, "b": True, "e": "p"}
    assert answer(Call("t", good), {"t": tool})["content"] == "ok"
    for key, wrong in [("n", True), ("n", 1.5), ("x", "1"), ("b", 1), ("e", "r")]:
        assert answer(Call("t", {**good, key: wrong}), {"t": tool})["content"].startswith(
            "Error: the argument"
        )


def test_a_tool_that_crashes_or_shouts_does_not_end_the_run():
    def crash(code):
        raise RuntimeError("no sandbox")

    crashed = answer(Call("python", {"code": "1"}), {"python": python(crash)})
    assert crashed["content"] == "Error: python failed: RuntimeError: no sandbox"
    loud = answer(Call("python", {"code": "1"}), {"python": python(lambda code: "x" * 10_000)})
    assert len(loud["content"]) < LONGEST + 60 and "cut after 2000 of 10000" in loud["content"]

    def polite(code):
        raise ToolError("Write print(...).")

    assert (
        answer(Call("python", {"code": "1"}), {"python": python(polite)})["content"]
        == "Error: Write print(...)."
    )


def test_a_result_is_cut_behind_its_beginning_and_only_where_it_is_too_long():
    echo = Tool("echo", "", {"text": {"type": "string"}}, {}, lambda text: text)
    whole = "ab" * (LONGEST // 2)
    assert answer(Call("echo", {"text": whole}), {"echo": echo})["content"] == whole
    cut = answer(Call("echo", {"text": "first" + whole}), {"echo": echo})["content"]
    assert cut.startswith("firstab") and cut.splitlines()[0] == ("first" + whole)[:LONGEST]


class Seen:
    """A reward that remembers what it was asked about."""

    def __init__(self, trusted):
        self.trusted, self.answers = trusted, []

    def __call__(self, attempt):
        self.answers.append(attempt.answer)
        return Score(1.0)


def test_the_reward_sees_an_answer_as_it_was_said_and_without_a_call_that_came_with_it(environment):
    reward = Seen(trusted=True)
    seen = with_tools(replace(load_environment("arithmetic"), reward=reward), [calculator()], max_turns=2)
    task = seen.train[0]
    thought = "<think>\nIs it 41? </think>\n\nAnswer: 41 \n"
    play(seen, task, [thought])
    play(seen, task, [call("1+1"), f"Answer: 41\n{call('2+2')}"])
    assert reward.answers == [thought, "Answer: 41"]
    assert seen.reward.trusted and not AfterTools(Seen(trusted=False)).trusted


def test_a_result_that_speaks_of_an_error_is_none():
    tools = [search({"Error handling": "Error: what is written when a call fails"})]
    made = with_tools(replace(load_environment("arithmetic"), reward=Seen(True)), tools, max_turns=2)
    asked = '<tool_call>{"name": "search", "arguments": {"query": "handling error"}}</tool_call>'
    attempt, verdict = play(made, made.train[0], [asked, "Answer: 1"])
    assert "Error" in attempt.messages[1]["content"]
    assert verdict.parts == {"tool_calls": 1, "tool_errors": 0}


def test_python_runs_in_what_it_is_given():
    seen = []
    environment = load_environment(
        "arithmetic?tools=python+calculator", run_program=lambda c: seen.append(c) or "2"
    )
    text = '<tool_call>{"name": "python", "arguments": {"code": "print(1+1)"}}</tool_call>'
    attempt, _ = play(environment, environment.example.task, [text, "Answer: 41"])
    assert seen == ["print(1+1)"] and attempt.messages[1]["content"] == "2"


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="the sandbox needs bubblewrap")
def test_python_runs_in_the_sandbox_otherwise():
    environment = load_environment("arithmetic?tools=python")
    code = json.dumps({"name": "python", "arguments": {"code": "print(6 * 7)"}})
    attempt, verdict = play(
        environment, environment.example.task, [f"<tool_call>{code}</tool_call>", "Answer: 41"]
    )
    assert attempt.messages[1]["content"].strip() == "42" and verdict.value == 1


def test_too_many_calls_in_a_turn_are_cut(environment):
    attempt, _ = play(environment, environment.example.task, [call("1+1") * 20, "Answer: 41"])
    results = [m for m in attempt.messages if m["role"] == "tool"]
    assert len(results) == 9 and "at most 8 calls" in results[-1]["content"]


def test_tools_are_explained_in_the_prompt_or_left_to_the_template():
    said = load_environment("arithmetic?tools=calculator")
    assert said.tools == () and "calculator(expression: string)" in said.train[0].messages[0]["content"]
    assert said.train[0].messages[0]["role"] == "system" == said.test[0].messages[0]["role"]
    left = load_environment("arithmetic?tools=calculator&tools_in_template=true")
    assert left.train[0].messages[0]["role"] == "user"
    assert left.tools[0]["function"]["parameters"]["required"] == ["expression"]


def test_the_system_message_of_a_task_is_kept():
    plain = load_environment("arithmetic", train_size=3, test_size=1)
    system = ({"role": "system", "content": "Be kind."},)
    kind = replace(plain, train=[replace(t, messages=(*system, *t.messages)) for t in plain.train])
    first = with_tools(kind, [calculator()]).train[0].messages
    assert first[0]["content"].startswith("Be kind.\n\nYou can call tools") and len(first) == 2


def test_bm25_by_hand():
    """Three documents, of 2, 2 and 4 words; `b` in one, `a` in two: idf(b) = ln(1 + 2.5/1.5), mean length 8/3."""
    import math

    index = Index(["a b", "a c", "c c c d"])
    norm = 1.5 * (0.25 + 0.75 * 2 / (8 / 3))
    assert index.score("b", 0) == pytest.approx(math.log(1 + 2.5 / 1.5) * 2.5 / (1 + norm))
    assert index.score("b", 1) == 0
    norm4 = 1.5 * (0.25 + 0.75 * 4 / (8 / 3))
    assert index.score("C", 2) == pytest.approx(math.log(1 + 1.5 / 2.5) * 3 * 2.5 / (3 + norm4))
    assert index.best("a b", 3) == [0, 1] and index.best("zebra", 3) == []


def test_search_answers_with_titles_and_says_when_there_is_nothing():
    tool = search({"Paris": "capital of France", "Rome": "capital of Italy"})
    assert tool.run(query="capital Italy").splitlines()[0] == "Rome: capital of Italy"
    assert tool.run(query="ocean") == "Nothing found."


def test_the_answer_to_every_lookup_question_can_be_found():
    environment = load_environment("lookup?tools=search&max_turns=5", test_size=12)
    for task in environment.test:
        name = (
            task.messages[-1]["content"]
            .split("?")[0]
            .removeprefix("In which town does ")
            .removesuffix(" work")
        )
        who = " ".join([w for w in name.split() if w[0].isupper() and w not in ("What", "In")][-2:])
        ask = f'<tool_call>{{"name": "search", "arguments": {{"query": "{who}"}}}}</tool_call>'
        attempt, _ = play(environment, task, [ask, "?"])
        line = attempt.messages[1]["content"].splitlines()[0]
        if "neighbour" in name:
            neighbour = line.rpartition("is ")[2].rstrip(".")
            line = (
                play(environment, task, [ask.replace(who, neighbour), "?"])[0]
                .messages[1]["content"]
                .splitlines()[0]
            )
        assert task.reference in line
