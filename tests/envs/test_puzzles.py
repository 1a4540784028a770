"""The twenty puzzles: solutions in every language agree on the answer, wrong programs fail, none gives itself away."""

import re
from dataclasses import replace

import pytest

from rung.envs.load import load_environment
from rung.envs.play import play
from rung.envs.puzzles.build import FOLDER, all_puzzles
from rung.errors import UserError
from rung.rewards.code import Code
from rung.rewards.score import Abstain, Attempt, Score
from rung.sandbox import pool
from rung.sandbox.languages import LANGUAGES, toolchain
from rung.sandbox.program import Case, Limits, Program
from rung.sandbox.result import Failed, Passed

PUZZLES = all_puzzles()


QUICK = (
    "python",
    "javascript",
)  # the rest take half a second to, Kotlin, many seconds to compile one program
LATER = ("cpp", "go", "java", "kotlin", "ocaml", "rust", "typescript", "zig")
EVERY = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LATER)]
SAMPLE = slice(8, None, 10)  # puzzles 9 and 19


def results(language, puzzles, answers):
    """What the sandbox makes of these puzzles' solutions if those are the answers."""
    if toolchain(language) is None:
        pytest.skip(f"no {language} here; {LANGUAGES[language].install}")
    programs = [
        Program(language, puzzle.solutions[language], (Case("", answer),))
        for puzzle, answer in zip(puzzles, answers, strict=True)
    ]
    limits = Limits(seconds=10, compile_seconds=180)
    return dict(zip([p.name for p in puzzles], pool.shared().map(programs, limits), strict=True))


@pytest.mark.parametrize("language", EVERY)
def test_every_solution_prints_the_answer_in_under_a_second(language):
    found = results(language, PUZZLES, [p.answer for p in PUZZLES])
    assert {name: r for name, r in found.items() if not isinstance(r, Passed)} == {}
    slow = {name: r.cpu_seconds for name, r in found.items() if r.cpu_seconds > 1.5}
    assert slow == {}  # under a second on an idle machine


@pytest.mark.parametrize("language", EVERY)
def test_a_solution_of_the_puzzle_before_fails_in_every_language(language):
    """A program that compiles, ends well and prints a number: the number alone tells it from a right one."""
    some = PUZZLES[::5]
    shifted = {p.name: PUZZLES[i - 1] for i, p in enumerate(PUZZLES)}
    found = results(language, some, [shifted[p.name].answer for p in some])
    assert {r.why if isinstance(r, Failed) else r for r in found.values()} == {"wrong output"}
    assert [r.got.strip() for r in found.values()] == [p.answer for p in some]


@pytest.mark.parametrize("language", [name for name in LATER if name not in ("kotlin", "zig")])
def test_some_solutions_in_the_languages_that_compile_slowly(language):
    some = PUZZLES[SAMPLE]
    found = results(language, some, [p.answer for p in some])
    assert {name: r for name, r in found.items() if not isinstance(r, Passed)} == {}
    [off_by_one] = results(language, some[:1], [str(int(some[0].answer) + 1)]).values()
    assert isinstance(off_by_one, Failed) and off_by_one.why == "wrong output"


def test_every_file_beside_a_puzzle_is_a_solution_and_no_language_leaves_a_puzzle_out():
    known = {language.file for language in LANGUAGES.values()}
    for puzzle in PUZZLES:
        assert {file.name for file in (FOLDER / puzzle.name).iterdir()} <= known
        assert set(puzzle.solutions) == {*QUICK, *LATER}, puzzle.name


def test_there_are_twenty_in_order_of_difficulty_each_in_three_languages_or_more():
    assert [p.name[:2] for p in PUZZLES] == [f"{i:02}" for i in range(1, 21)]
    assert sorted(p.difficulty for p in PUZZLES) == [p.difficulty for p in PUZZLES]
    assert {p.difficulty for p in PUZZLES} == {1, 2, 3, 4, 5}
    assert all({"python", "cpp", "javascript"} <= p.solutions.keys() for p in PUZZLES)
    assert len({p.answer for p in PUZZLES}) == 20


@pytest.mark.parametrize("puzzle", PUZZLES, ids=lambda p: p.name)
def test_no_answer_stands_in_a_statement_or_a_solution_and_none_is_short(puzzle):
    assert puzzle.answer.isdigit() and len(puzzle.answer) >= 4  # not to be guessed
    numbers = re.findall(r"\d+", puzzle.statement)
    assert puzzle.answer not in numbers
    assert all(puzzle.answer not in code for code in puzzle.solutions.values())


def test_wrong_answers_fail_whatever_the_puzzle():
    """Another puzzle's answer, a number of the statement, the answer off by one, with words, or twice."""
    environment = load_environment("puzzles")
    reward, wrong = environment.reward, []
    for i, (task, puzzle) in enumerate(zip(environment.test, PUZZLES, strict=True)):
        number = re.findall(r"\d+", puzzle.statement)[-1]
        printed = [PUZZLES[i - 1].answer, number, int(puzzle.answer) + 1]
        if i == 0:
            printed += [
                f"The answer is {puzzle.answer}",
                f"{puzzle.answer}\\n{puzzle.answer}",
                "",
                f"{puzzle.answer}.0",
            ]
        wrong += [Attempt(task.messages, f"```python\nprint('{p}')\n```", task.reference) for p in printed]
    assert {v.value for v in reward.many(wrong)} == {0.0}
    assert all(v.parts["has_code"] == 1 for v in reward.many(wrong[:2]))


@pytest.mark.parametrize("name", ["python", "cpp", "javascript"])
def test_the_worked_example_in_each_language(name):
    if toolchain(name) is None:
        pytest.skip(f"no {name} here")
    environment = load_environment(f"puzzles?language={name}")
    example = environment.example
    assert play(environment, example.task, example.right)[1].value == 1
    assert play(environment, example.task, example.wrong)[1].value == 0


def test_the_prompt_names_language_and_fence_and_keeps_the_answer_to_itself():
    for spelling, title, fence in (("js", "JavaScript", "```javascript"), ("hack", "Hack", "```hack")):
        environment = load_environment(f"puzzles?language={spelling}")
        assert len(environment.train) == 0 and len(environment.test) == 20
        for task, puzzle in zip(environment.test, PUZZLES, strict=True):
            prompt = task.messages[0]["content"]
            assert title in prompt and fence in prompt and puzzle.statement in prompt
            assert puzzle.answer not in prompt


def test_options_that_name_nothing_are_refused():
    with pytest.raises(UserError, match="no language 'cobol'"):
        load_environment("puzzles?language=cobol")
    with pytest.raises(UserError, match="difficulty=6"):
        load_environment("puzzles?difficulty=6")
    assert {t.extra["difficulty"] for t in load_environment("puzzles?difficulty=4").test} == {4}


# ---- answers of odd shapes, and machines that lack something ----


def test_no_code_two_blocks_and_bytes_that_are_no_text():
    task = load_environment("puzzles").test[0]
    right = task.reference["cases"][0]["stdout"]

    def verdict(answer):
        return Code("python")(Attempt(task.messages, answer, task.reference))

    assert verdict(f"It is {right}.") == Score(0.0, {"has_code": 0.0})
    assert verdict(f"```python\nprint(1)\n```\nNo:\n```python\nprint({right})\n```").value == 1
    assert verdict(f"```python\nprint({right})\n```\nor\n```cpp\nint main() {{}}\n```").value == 1
    binary = f"import os\nos.write(1, b'\\xff\\xfe{right}\\n')"
    assert verdict(f"```python\n{binary}\n```").value == 0
    result = pool.run(Program("python", binary, (Case("", right),)))
    assert isinstance(result, Failed) and result.why == "wrong output" and "\ufffd" in result.got


def test_a_missing_toolchain_abstains(monkeypatch):
    from rung.sandbox import execute

    task = load_environment("puzzles?language=rust").test[0]
    monkeypatch.setattr(execute, "toolchain", lambda name: None)
    verdict = Code("rust")(Attempt(task.messages, "```rust\nfn main() {}\n```", task.reference))
    assert isinstance(verdict, Abstain) and "rustc" in verdict.reason


def test_a_compiler_that_hangs_is_no_fault_of_the_program(monkeypatch):
    """The program's compile runs into its limit, and so does the language's smallest program: no verdict."""
    from rung.rewards.score import Failure
    from rung.sandbox import execute

    tools = replace(toolchain("python"), compile=("/bin/sh", "-c", "sleep 30"))
    monkeypatch.setattr(execute, "toolchain", lambda name: tools)
    monkeypatch.setattr(execute, "HEALTHY", set())
    quick = Limits(compile_seconds=0.3)
    monkeypatch.setattr(execute, "Limits", lambda: quick)  # for the smallest program
    task = load_environment("puzzles?language=rust").test[0]
    verdict = Code("rust", limits=quick)(Attempt(task.messages, "```rust\nfn main() {}\n```", task.reference))
    assert isinstance(verdict, Failure) and "toolchain" in verdict.detail
