"""Code, judged by running it in the sandbox on tests; and a tool that runs Python for a model.

A wrong program is a Score of 0: it does not compile, fails a test, runs into a limit, or is no program at all.
A machine without the language's toolchain makes the reward Abstain, and a harness that broke is a Failure:
neither says anything of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

from rung.errors import UserError
from rung.rewards.extract import without_thinking
from rung.rewards.score import Abstain, Attempt, Failure, Score, Verdict
from rung.sandbox import pool
from rung.sandbox.extract import extract
from rung.sandbox.program import Case, Checks, Limits, Program
from rung.sandbox.result import Broken, Failed, Missing, OutputTooLong, Passed, Result, Timeout

TOOL_LIMITS = Limits(seconds=10, output=64 << 10)
FORMS = (
    "a reference of code tasks is {'cases': [{'stdin': ..., 'stdout': ...}, ...]}, {'asserts': [...], "
    "'setup': ...}, or a row of HumanEval with 'prompt', 'test' and 'entry_point'"
)


@dataclass(frozen=True)
class Code:
    """1 if the program in the answer passes every test, else 0; with `fraction`, the share of tests it passes."""

    language: str = "python"
    fraction: bool = False
    limits: Limits = field(default_factory=Limits)
    unsafe: bool = False  # without a sandbox; see docs/sandbox.md
    # The sandbox bounds what it runs in time and memory, so it needs no process of its own.
    trusted: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        return self.many([attempt])[0]

    def many(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        """All of them at once, over the cores."""
        prepared = [self.prepare(attempt) for attempt in attempts]
        programs = [each for each in prepared if isinstance(each, Program)]
        workers = pool.shared(self.unsafe)
        results = workers.map(programs, self.limits, every_test=self.fraction)
        return [
            verdict(next(results), self.fraction) if isinstance(each, Program) else each for each in prepared
        ]

    def prepare(self, attempt: Attempt) -> Program | Verdict:
        """The program to run, or the verdict where there is nothing to run."""
        try:
            tests = tests_of(attempt.reference)
        except (UserError, TypeError, KeyError, ValueError) as error:
            return Failure("invalid", f"{FORMS}; got {str(attempt.reference)[:200]!r} ({error})")
        entry = tests.entry if isinstance(tests, Checks) else ()
        code = extract(without_thinking(attempt.answer), self.language, entry)
        if code is None:
            return Score(0.0, {"has_code": 0.0})
        try:
            return Program(self.language, code, tests)
        except UserError as error:  # checks for a language other than Python
            return Failure("invalid", str(error))


def tests_of(reference: Any) -> tuple[Case, ...] | Checks:
    """Tests as they stand in a task's reference."""
    if isinstance(reference, Checks):
        return reference
    if isinstance(reference, Mapping):
        if "entry_point" in reference:
            return Checks.human_eval(reference["prompt"], reference["test"], reference["entry_point"])
        if "asserts" in reference:
            return Checks(
                tuple(reference["asserts"]), reference.get("setup") or "", tuple(reference.get("entry", ()))
            )
        reference = reference["cases"]
    cases = tuple(
        each if isinstance(each, Case) else Case(text(each["stdin"]), text(each["stdout"]))
        for each in reference
    )
    if not cases:
        raise ValueError("there are no tests, so every program would pass")
    return cases


def text(value: Any) -> str | bytes:
    if not isinstance(value, str | bytes):
        raise TypeError(f"{value!r} is not a text")
    return value


def verdict(result: Result, fraction: bool) -> Verdict:
    if isinstance(result, Missing):
        return Abstain(f"no {result.language} on this machine; to get it: {result.install}")
    if isinstance(result, Broken):
        kind = cast(Literal["timeout", "memory", "crash", "exception", "invalid"], result.kind)
        return Failure(kind, result.detail)
    share = result.passed / result.total if result.total else 0.0
    parts = {
        "has_code": 1.0,
        "tests_passed": share,
        "compiles": float(result.total > 0),
        "timeout": float(isinstance(result, Timeout)),
        "seconds": result.seconds,
    }
    return Score(share if fraction else float(isinstance(result, Passed)), parts)


def python_tool(code: str, limits: Limits = TOOL_LIMITS, unsafe: bool = False) -> str:
    """What a program printed, and how it ended if not well, as text for a model to read."""
    result = pool.shared(unsafe).submit(Program("python", code), limits).result()
    said = result.stdout
    if isinstance(result, Broken | Missing):
        raise RuntimeError(f"the Python tool is broken: {result}")
    if isinstance(result, Timeout):
        said += f"\n[stopped after {limits.seconds:g} seconds]"
    elif isinstance(result, OutputTooLong):
        said += f"\n[stopped: more than {limits.output} bytes of output]"
    elif isinstance(result, Failed):
        said += f"\n{result.stderr}" if result.stderr else f"\n[{result.why}]"
    elif not isinstance(result, Passed):
        said += f"\n{result.stderr}\n[stopped: {type(result).__name__}]"
    elif result.stderr:
        said += f"\n{result.stderr}"
    return said.strip("\n") or "(no output)"
