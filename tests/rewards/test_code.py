"""The code reward: what a result becomes, what an answer must hold, and the Python tool."""

import pytest

from rung.errors import UserError
from rung.rewards.code import Code, python_tool, verdict
from rung.rewards.code import tests_of as read_tests
from rung.rewards.score import Abstain, Attempt, Failure, Score
from rung.sandbox import bubblewrap
from rung.sandbox.program import Case, Checks, Limits
from rung.sandbox.result import Broken, CompileError, Failed, Missing, OutOfMemory, Passed, Timeout

CASES = {"cases": [{"stdin": "2", "stdout": "4"}, {"stdin": "3", "stdout": "9"}]}
SQUARE, DOUBLE = "n = int(input())\nprint(n * n)", "print(2 * int(input()))"


@pytest.fixture
def isolated():
    try:
        bubblewrap.require()
    except UserError as error:
        pytest.skip(f"no isolation on this machine: {error}")


def attempt(code, reference=CASES, language="python"):
    return Attempt((), f"Here:\n```{language}\n{code}\n```\n", reference)


def value(judged):
    assert isinstance(judged, Score), judged
    return judged.value


def test_all_or_nothing_and_the_share(isolated):
    answers = [attempt(SQUARE), attempt(DOUBLE), attempt("syntax error"), Attempt((), "16, I think.", CASES)]
    assert [value(v) for v in Code().many(answers)] == [1, 0, 0, 0]
    assert [value(v) for v in Code(fraction=True).many(answers)] == [1, 0.5, 0, 0]


def test_forms_of_tests(isolated):
    human = {
        "prompt": 'def f(x):\n    """Doc."""\n',
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
        "entry_point": "f",
    }
    asserts = {"asserts": ["assert f(2) == four", "assert f(5) == 10"], "setup": "four = 4"}
    for reference in (human, asserts, Checks(("assert f(2) == 4",))):
        assert value(Code()(attempt("def f(x): return 2 * x", reference))) == 1
        assert value(Code()(attempt("def f(x): return x", reference))) == 0
    assert value(Code(fraction=True)(attempt("def f(x): return 4", asserts))) == 0.5


def test_only_what_follows_the_thought_counts(isolated):
    thought = f"<think>```python\n{SQUARE}\n```</think>no code after all"
    judged = Code()(Attempt((), thought, CASES))
    assert isinstance(judged, Score) and (judged.value, judged.parts["has_code"]) == (0, 0)


@pytest.mark.parametrize(
    "reference",
    [
        None,
        4,
        {},
        {"cases": []},
        {"cases": [{"stdin": "1"}]},
        {"asserts": []},
        {"cases": [{"stdin": 1, "stdout": "1"}]},
    ],
)
def test_a_reference_that_is_no_test_is_a_failure_of_the_task(reference):
    judged = Code().prepare(attempt("print(1)", reference))
    assert isinstance(judged, Failure) and judged.kind == "invalid"


def test_checks_of_another_language_are_a_failure_of_the_task():
    judged = Code("go").prepare(attempt("package main", {"asserts": ["assert f()"]}, "go"))
    assert isinstance(judged, Failure)


@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        (Passed(passed=3, total=3), 1.0),
        (Failed(1, "wrong output", passed=1, total=4), 0.0),
        (Timeout(passed=0, total=1), 0.0),
        (OutOfMemory(passed=0, total=1), 0.0),
        (CompileError(), 0.0),
        (Missing("zig", "pip install ziglang"), Abstain),
        (Broken("it broke", "timeout"), Failure),
    ],
)
def test_results_become_verdicts(result, wanted):
    judged = verdict(result, fraction=False)
    if isinstance(wanted, float):
        assert value(judged) == wanted
    else:
        assert isinstance(judged, wanted)
    if isinstance(judged, Failure):
        assert judged.kind == "timeout"


def test_the_share_of_a_result():
    assert value(verdict(Failed(1, "wrong output", passed=1, total=4), fraction=True)) == 0.25


def test_cases_are_read():
    assert read_tests([{"stdin": "a", "stdout": "b"}]) == (Case("a", "b"),)


def test_the_tool_shows_what_a_reader_needs(isolated):
    assert python_tool("print(2 + 2)") == "4"
    assert python_tool("x = 1") == "(no output)"
    assert python_tool("print(1)\n1 / 0").endswith("ZeroDivisionError: division by zero")
    assert "stopped after 0.5 seconds" in python_tool(
        "print(1, flush=True)\nwhile True: pass", Limits(seconds=0.5)
    )
    assert "more than 1000 bytes" in python_tool("print('x' * 10**6)", Limits(output=1000))
    assert "Error" in python_tool("open('/etc/shadow')")
