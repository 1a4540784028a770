"""Answers through math-verify: equal is equal, broken rows fail, wrong answers are zeros; in threads and workers."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rung.rewards.math_answer import MathAnswer
from rung.rewards.score import Attempt, Failure, Score
from rung.rewards.workers import Graders

pytest.importorskip("math_verify")


def attempt(answer, reference):
    return Attempt((), answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("\\boxed{\\frac{1}{2}}", "0.5"),
        ("\\boxed{1/2}", "\\frac{1}{2}"),
        ("so <answer>x^2 + 2x + 1</answer>", "(x+1)^2"),
        ("the set is \\boxed{\\{1, 2\\}}", "\\{2, 1\\}"),
        ("\\boxed{\\sqrt{8}}", "2\\sqrt{2}"),
        ("\\boxed{1,234}", "1234"),
        ("It follows that $x = 5$.", "5"),
        ("\\boxed{5}", 5),
        ("#### 18", "$18$"),
        ("\\boxed{(1, 2)}", "We find \\boxed{(1,2)}."),
        ("\\boxed{50\\%}", "50\\%"),
    ],
)
def test_equal(answer, reference):
    assert MathAnswer()(attempt(answer, reference)) == Score(1.0, {"parsed": 1.0})


@pytest.mark.parametrize(
    ("answer", "reference", "parsed"),
    [
        ("\\boxed{3}", "5", 1),
        ("\\boxed{(2, 1)}", "(1, 2)", 1),
        ("<think>\\boxed{5}</think> I cannot tell", "5", 0),
        ("", "5", 0),
        ("\\boxed{" + "(" * 5000 + "}", "5", 0),
        ("\\boxed{\\frac{}", "5", 0),
    ],
)
def test_wrong(answer, reference, parsed):
    assert MathAnswer()(attempt(answer, reference)) == Score(0.0, {"parsed": parsed})


@pytest.mark.parametrize("reference", [None, "", "$$"])
def test_a_reference_that_cannot_be_read_fails(reference):
    verdict = MathAnswer()(attempt("\\boxed{5}", reference))
    assert isinstance(verdict, Failure) and verdict.kind == "invalid"


def test_its_own_clock_is_a_timeout_not_a_wrong_answer(monkeypatch):
    import math_verify.grader

    monkeypatch.setattr(math_verify.grader, "sympy_expr_eq", lambda *_: time.sleep(20))
    begun = time.monotonic()
    verdict = MathAnswer(seconds=1)(attempt("\\boxed{x+1}", "x"))
    assert isinstance(verdict, Failure) and verdict.kind == "timeout"
    assert time.monotonic() - begun < 10


def test_a_crash_is_a_failure_not_a_wrong_answer(monkeypatch):
    import math_verify.grader

    def crash(*_):
        raise TypeError("cannot compare")

    monkeypatch.setattr(math_verify.grader, "sympy_expr_eq", crash)
    with pytest.raises(TypeError):
        MathAnswer()(attempt("\\boxed{x+1}", "x"))


def test_in_threads_where_signals_do_not_exist():
    with ThreadPoolExecutor(2) as pool:
        right, wrong = pool.map(
            MathAnswer(), [attempt("\\boxed{2\\sqrt{2}}", "\\sqrt{8}"), attempt("\\boxed{2}", "\\sqrt{8}")]
        )
    assert (right.value, wrong.value) == (1.0, 0.0)


def test_in_a_worker_a_huge_power_costs_only_itself():
    attempts = [attempt("\\boxed{2}", "2"), attempt("\\boxed{10^{10^{10}}}", "2"), attempt("\\boxed{3}", "2")]
    with Graders(MathAnswer(seconds=1), workers=2, wall_seconds=8) as graders:
        verdicts = graders.grade(attempts)
    assert verdicts[0] == Score(1.0, {"parsed": 1.0}) and verdicts[2] == Score(0.0, {"parsed": 1.0})
    assert isinstance(verdicts[1], Failure) and verdicts[1].kind == "timeout"


def test_it_can_be_sent():
    assert pickle.loads(pickle.dumps(MathAnswer(3))) == MathAnswer(3)
