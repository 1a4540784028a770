"""A program in boxes, and how it ended. The verdict is reached here, outside, where no program can touch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rung.sandbox.box import Box, BoxDied, Outcome
from rung.sandbox.functions import run_checks
from rung.sandbox.languages import LANGUAGES, language, toolchain
from rung.sandbox.languages.language import Toolchain
from rung.sandbox.outcomes import describe, ending
from rung.sandbox.program import Case, Checks, Limits, Program, as_bytes
from rung.sandbox.result import Broken, CompileError, Failed, Missing, Passed, Result, tail

Take = Callable[[tuple[str, ...], int], Box]  # mounts, disk -> a box that nobody has used
SHOWN = 500  # characters of an expected or wrong output in a result


def execute(program: Program, limits: Limits, take: Take, every_test: bool = False) -> Result:
    """Run it on its tests: all of them with `every_test`, else up to the first that fails."""
    known = language(program.language)
    tools = toolchain(known.name)
    if tools is None:
        return Missing(known.name, known.install)
    try:
        if isinstance(program.tests, Checks):
            result = run_checks(program, program.tests, limits, tools, take, every_test)
        else:
            result = run_cases(program, limits, tools, take, every_test)
    except BoxDied as died:
        return Broken(f"the sandbox failed before the program started: {died}")
    blameless = isinstance(result, Passed) or (isinstance(result, Failed) and result.why == "wrong output")
    if not blameless and not healthy(known.name, take):
        return Broken(
            f"the {known.title} toolchain fails on its smallest program: {result.stderr}",
            stderr=result.stderr,
        )
    return result


def run_cases(program: Program, limits: Limits, tools: Toolchain, take: Take, every_test: bool) -> Result:
    disk = max(limits.disk, tools.compile_disk if tools.compile else 0)
    box = take(tools.mounts, disk)
    try:
        files = {name: as_bytes(content) for name, content in program.files.items()}
        files |= {name: as_bytes(content) for name, content in tools.extra_files.items()}
        box.put(files | {language(program.language).file: as_bytes(program.code)})
        if tools.compile and (wrong := compiled(box, limits, tools)):
            return wrong
        return judge(program, limits, tools, box, every_test)
    finally:
        box.close()


def compiled(box: Box, limits: Limits, tools: Toolchain) -> CompileError | None:
    room = replace(limits, memory=tools.compile_memory, disk=tools.compile_disk, processes=256, files=1024)
    end = box.run(tools.compile, room, limits.compile_seconds, environment=tools.environment)
    if end.exit == 0:
        return None
    said = end.stderr + end.stdout
    reason = f"the compiler ran into its limit of {end.why}\n" if end.why else ""
    return CompileError(**describe(end) | {"stderr": reason + tail(said)})


def judge(program: Program, limits: Limits, tools: Toolchain, box: Box, every_test: bool) -> Result:
    """The first run that went wrong, or the last one, with how many went right."""
    assert not isinstance(program.tests, Checks)
    tests: tuple[Case | None, ...] = program.tests or (None,)
    passed, first, left = 0, None, limits.total_seconds
    result: Result
    for index, test in enumerate(tests):
        stdin = as_bytes(program.stdin if test is None else test.stdin)
        end = one_run(program, limits, tools, box, min(limits.seconds, left), stdin)
        left = max(0.01, left - end.seconds)
        result = ending(end, index) or compare(end, test, index)
        passed += isinstance(result, Passed)
        first = first or (None if isinstance(result, Passed) else result)
        if first and not every_test:
            break
    return replace(first or result, passed=passed, total=len(tests))


def one_run(
    program: Program, limits: Limits, tools: Toolchain, box: Box, seconds: float, stdin: bytes
) -> Outcome:
    argv = [word.replace("{memory_mb}", str(limits.memory >> 20)) for word in tools.run]
    room = replace(
        limits,
        memory=limits.memory + tools.runtime_memory,
        processes=limits.processes + tools.runtime_processes,
    )
    try:
        return box.run([*argv, *program.argv], room, seconds, stdin=stdin, environment=tools.environment)
    except BoxDied as died:  # a program that brings the launcher down has not passed
        why = "memory" if str(died) == "memory" else "it took the sandbox down with it"
        return Outcome(None, 9, why, seconds, 0.0, 0, b"", str(died).encode())


def compare(end: Outcome, test: Case | None, index: int) -> Result:
    """Output is right if its lines are, but for blanks at their ends and blank lines at the end."""
    if test is None or lines(end.stdout) == lines(as_bytes(test.stdout)):
        return Passed(**describe(end))
    expected, got = tail(as_bytes(test.stdout), SHOWN), tail(end.stdout, SHOWN)
    return Failed(index, "wrong output", expected, got, **describe(end))


def lines(text: bytes) -> list[bytes]:
    return [line.rstrip() for line in text.rstrip().split(b"\n")]


HEALTHY: set[str] = set()  # languages whose smallest program has run here


def healthy(name: str, take: Take) -> bool:
    """Whether a toolchain still manages its smallest program; asked when something went wrong, until it does."""
    tools = toolchain(name)
    assert tools
    if name not in HEALTHY:
        try:
            result = run_cases(Program(name, LANGUAGES[name].hello), Limits(), tools, take, False)
        except BoxDied:
            return False
        if not isinstance(result, Passed):
            return False
        HEALTHY.add(name)
    return True
