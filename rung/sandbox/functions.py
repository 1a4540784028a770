"""Tests that call a program's functions: the tests in one sandbox, the program in another, calls between them.

The program sees the arguments of each call and nothing else: neither the tests nor where they are decided.
What it returns crosses as plain data, so it cannot hand over an object with an == of its own, patch what
assert or len mean, or end the tests with status 0. There is no marker to print: the verdict is a message from
the tests' sandbox, which runs no line of the program.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from rung.sandbox.box import Box, BoxDied, Outcome
from rung.sandbox.bubblewrap import INSIDE
from rung.sandbox.languages.language import Toolchain
from rung.sandbox.outcomes import describe, ending
from rung.sandbox.program import Checks, Limits, Program, as_bytes
from rung.sandbox.result import Broken, Failed, OutOfMemory, OutputTooLong, Passed, Result, Timeout

MESSAGE = 8 << 20  # bytes of one message; more is an answer too long
START = 10.0  # seconds the tests may take to start and set up, on a machine that a program keeps busy
TESTS_ROOM = 256 << 20  # memory of the tests beside the program's limit, which their data may fill


class Line:
    """Messages from one side's socket, a line each, bounded."""

    def __init__(self, box: Box):
        self.box, self.buffer, self.open = box, b"", True

    def feed(self) -> list[bytes]:
        try:
            data = os.read(self.box.channel.fileno(), 1 << 18)
        except ConnectionResetError:
            data = b""
        self.open = bool(data)
        *whole, self.buffer = (self.buffer + data).split(b"\n")
        return whole

    def send(self, message: bytes, until: float) -> bool:
        """False where the other side does not read: it is gone, or busy with something else."""
        self.box.channel.settimeout(max(0.01, until - time.monotonic()))
        try:
            self.box.channel.sendall(message + b"\n")
        except (TimeoutError, OSError):
            return False
        finally:
            self.box.channel.settimeout(None)
        return True


@dataclass
class Progress:
    """What the tests have reported."""

    test: int = -1
    passed: int = 0
    errors: dict[int, str] = field(default_factory=dict)
    got: dict[int, str] = field(default_factory=dict)  # the answer before a test failed
    answered: bool = False
    broken: str = ""
    ended: bool = False
    stopped: str = ""  # why we stopped: "timeout", "output", "unasked" or "gone"
    asked: bool = False  # the tests have asked the program for something
    awaiting: bool = False  # and it has not answered yet


def run_checks(
    program: Program, checks: Checks, limits: Limits, tools: Toolchain, take: Callable[..., Box], every: bool
) -> Result:
    subject, judge = take(tools.mounts, limits.disk), take(tools.mounts, limits.disk)
    try:
        subject.put({**{k: as_bytes(v) for k, v in program.files.items()}, "main.py": as_bytes(program.code)})
        orders = {**vars(checks), "stop": not every}
        judge.put({"tests.json": json.dumps(orders).encode()})
        room = replace(limits, memory=limits.memory + TESTS_ROOM)
        # two sandboxes, one clock: ours ends them, theirs are for when we are gone
        serve = [tools.run[0], inside(subject, "serve.py"), *program.argv]
        check = [tools.run[0], "-S", inside(judge, "check.py")]  # -S: tests get the standard library, sooner
        subject.start(serve, limits, limits.total_seconds + limits.seconds + START, channel=True)
        judge.start(check, room, limits.total_seconds + limits.seconds + START, channel=True)
        progress = relay(subject, judge, limits)
        return verdict(progress, checks, subject, judge)
    finally:
        subject.close()
        judge.close()


def inside(box: Box, script: str) -> str:
    return str(INSIDE / script) if box.unsafe else f"/rung/{script}"


def relay(subject: Box, judge: Box, limits: Limits) -> Progress:
    """Carry messages between program and tests until the tests are done or a limit is reached."""
    progress, program, tests = Progress(), Line(subject), Line(judge)
    until = end = time.monotonic() + START + limits.seconds  # the tests' clock starts with the first of them
    poll = select.poll()
    for line in (program, tests):
        poll.register(line.box.channel, select.POLLIN)
    # Its launcher says when a side is dead; its socket closes then too, unless a child of it holds on.
    for box in (subject, judge):
        assert box.process.stdout
        poll.register(box.process.stdout, select.POLLIN)
    while not progress.ended and not progress.stopped and not progress.broken:
        ready = {number for number, _ in poll.poll(max(0.0, until - time.monotonic()) * 1000)}
        if time.monotonic() >= until:
            progress.stopped = "timeout"
            break
        if tests.box.channel.fileno() in ready:
            for message in tests.feed():
                if note(progress, message):
                    end = time.monotonic() + limits.total_seconds if progress.test == 0 else end
                    until = min(end, time.monotonic() + limits.seconds)
                if not own(message) and program.open:
                    progress.asked = progress.awaiting = True
                    program.send(message, until)
            if not tests.open:
                progress.stopped = progress.stopped or "gone"
        elif program.open and program.box.channel.fileno() in ready:
            for message in program.feed():
                if not progress.awaiting:  # each side speaks when spoken to, so this is no answer
                    progress.stopped = "unasked"
                    break
                progress.answered, progress.awaiting = True, False
                if not tests.send(message, until):
                    progress.stopped = "timeout"
                    break
            if len(program.buffer) > MESSAGE:
                progress.stopped = "output"
        elif judge.process.stdout and judge.process.stdout.fileno() in ready:
            progress.stopped = progress.stopped or "gone"
        elif ready:
            program.open = False
        if not program.open and not progress.stopped:
            # Tell the tests, once all the program has said is delivered: they fail what is left.
            poll_off(poll, subject)
            shut(judge)
    return progress


def poll_off(poll: select.poll, box: Box) -> None:
    assert box.process.stdout
    for stream in (box.channel, box.process.stdout):
        with contextlib.suppress(KeyError):
            poll.unregister(stream)


def shut(box: Box) -> None:
    """No more answers will come; what the tests say is still heard."""
    with contextlib.suppress(OSError):
        box.channel.shutdown(socket.SHUT_WR)


def own(message: bytes) -> bool:
    """Whether a message of the tests is for us rather than for the program."""
    return message.startswith((b'{"test"', b'{"ok"', b'{"end"', b'{"broken"'))


def note(progress: Progress, message: bytes) -> bool:
    """Take in a message of the tests; True when another test begins."""
    if not own(message):
        return False
    said: dict[str, Any] = json.loads(message)
    if "test" in said:
        progress.test = said["test"]
        return True
    if "ok" in said:
        progress.passed += said["ok"]
        if not said["ok"]:
            progress.errors[progress.test] = said["error"]
            progress.got[progress.test] = said.get("got", "")
    progress.broken = said.get("broken", "")
    progress.ended = "end" in said
    return False


def verdict(progress: Progress, checks: Checks, subject: Box, judge: Box) -> Result:
    total = len(checks.statements)
    if progress.broken:
        return Broken(f"the tests cannot run: {progress.broken}", "exception")
    if progress.ended and progress.passed == total:
        if not progress.answered:
            return Broken("the tests passed without asking the program for anything", "invalid")
        return Passed(passed=total, total=total)
    test = min(progress.errors, default=max(progress.test, 0))
    counted: dict[str, Any] = {"passed": progress.passed, "total": total}
    if progress.stopped == "output":
        return OutputTooLong(test, **counted)
    if progress.stopped == "unasked":
        return Failed(test, "it spoke to the tests without being asked", checks.statements[test], **counted)
    if progress.stopped and not progress.asked:
        return Broken("the tests ended or hung before they asked for anything", "timeout")
    own_end = end_of(subject)
    if own_end and (result := ending(own_end, test)):  # it died: of what?
        return replace(result, **counted)
    if progress.stopped == "timeout":
        return Timeout(test, **counted)
    about = describe(own_end) if own_end else {}
    why = progress.errors.get(test, "the tests could not go on with its answers")
    if why.startswith("MemoryError"):
        return OutOfMemory(test, **about, **counted)
    return Failed(test, why, checks.statements[test], progress.got.get(test, ""), **about, **counted)


def end_of(box: Box) -> Outcome | None:
    """How a side ended, if it has."""
    assert box.process.stdout
    if not select.select([box.process.stdout], [], [], 0.05)[0]:
        return None
    try:
        return box.finish()
    except BoxDied as died:
        why = "memory" if str(died) == "memory" else ""
        return Outcome(None, 9, why, 0.0, 0.0, 0, b"", str(died).encode())
