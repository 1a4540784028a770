"""Rewards that misbehave as the answer says; the answer "7" is worth 7. Not a test: workers import it."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from rung.rewards.score import Abstain, Attempt, Failure, Score

KEPT: list[bytes] = []


def _let_go(seconds: float) -> None:
    """A daemon: twice forked, in a session of its own, deaf to SIGTERM."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(seconds)
        os._exit(0)
    os.wait()


def misbehave(attempt: Attempt):
    what = attempt.answer
    if what == "spin":
        while True:
            pass
    elif what == "sleep":
        time.sleep(1000)
    elif what == "deaf":
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        while True:
            time.sleep(0.1)
    elif what == "swallow":
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(1)
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "stop the server":
        _let_go(1000)
        os.kill(os.getppid(), signal.SIGSTOP)
    elif what == "allocate":
        KEPT.append(bytes(10 << 30))
    elif what == "hoard":
        while True:
            KEPT.append(bytes(1 << 26))
    elif what == "segfault":
        ctypes.string_at(0)
    elif what == "abort":
        os.abort()
    elif what == "exit":
        os._exit(0)
    elif what == "sys.exit":
        sys.exit(3)
    elif what == "interrupt":
        raise KeyboardInterrupt
    elif what == "raise":
        raise ValueError("what a pity")
    elif what == "recurse":
        return misbehave(attempt)
    elif what == "None":
        return None
    elif what == "NaN":
        return float("nan")
    elif what == "infinite":
        return float("-inf")
    elif what == "string":
        return "1.0"
    elif what == "list":
        return [1.0, 2.0]
    elif what == "complex":
        return 1j
    elif what == "NaN part":
        return Score(1.0, {"part": float("nan")})
    elif what == "abstain":
        return Abstain("a tie")
    elif what == "fail":
        return Failure("invalid", "a broken row")
    return _untidy(what)


def _untidy(what: str):
    """Right verdicts that leave something behind."""
    if what == "child":
        subprocess.Popen(["sleep", "1000"])
    elif what == "fork":
        os.fork()  # both return
    elif what == "daemon":
        _let_go(1000)
    elif what == "daemon, then spin":
        _let_go(1000)
        while True:
            pass
    elif what == "twin":
        return _twin()
    elif what == "doze":
        time.sleep(1)
    elif what == "thread":
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    elif what == "print":
        print("x" * 100_000)
        sys.stdout.flush()
        os.write(1, b"\0" * 100_000)
    elif what == "close":
        os.closerange(0, 1000)
    elif what == "pid":
        return float(os.getpid())
    elif what == "torch":
        return float("torch" in sys.modules or "numpy" in sys.modules)
    return float(what) if what.lstrip("-").isdigit() else 1.0


def _twin() -> float:
    """Returns twice: now in this process, and a little later in one that has left the session."""
    if os.fork():
        os.wait()
        return 1.0
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(0.5)
    return 99.0


def note(attempt: Attempt) -> float:
    """Writes when it begins, so that a test can see that it runs at once."""
    time.sleep(float(attempt.answer))
    Path(attempt.reference).touch()
    return 1.0
