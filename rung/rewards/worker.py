"""What a worker does: loads the reward, then grades whatever it is sent, under limits it cannot lift.

A worker is a fork of the server (see there), leads its own session, and dies with the server. After each
attempt it looks at what the reward left behind; a worker with a living child or thread, or with memory it could
not get, says that it is done for, and the server replaces it.
"""

from __future__ import annotations

import ctypes
import math
import os
import pickle
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rung.rewards.calling import failure_of, judge_all
from rung.rewards.channel import Channel
from rung.rewards.score import Attempt, Failure, Reward, Verdict
from rung.rewards.user import load_file

GRADED_BY_ONE = 1000  # attempts, after which a worker is replaced: rewards leak
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Limits:
    wall_seconds: float  # of one call of the reward
    cpu_seconds: int  # of one call of the reward
    memory_bytes: int  # of address space


@dataclass(frozen=True)
class Setup:
    reward_pickle: bytes
    files: tuple[str, ...]  # of the user's, that the pickle refers to
    workers: int
    limits: Limits


def work(channel: Channel, setup: Setup, server: int) -> NoReturn:
    """The whole life of a worker. It never returns into the server's code, whatever happens."""
    try:
        _settle(channel, setup.limits, server)
        try:
            for file in setup.files:
                load_file(file)
            reward = pickle.loads(setup.reward_pickle)
        except BaseException as error:  # user code: the boundary
            channel.send(("broken", failure_of(error)))
            os._exit(1)
        channel.send(("ready",))
        me, threads = os.getpid(), threading.active_count()
        for graded in range(1, GRADED_BY_ONE + 1):
            attempts = channel.receive()
            _allow_cpu(setup.limits.cpu_seconds)
            verdicts = _graded(reward, attempts)
            if os.getpid() != me:
                os._exit(0)  # a child the reward forked came back from it too; the verdict is its parent's
            starved = any(isinstance(verdict, Failure) and verdict.kind == "memory" for verdict in verdicts)
            left = _children_left() or threading.active_count() > threads
            channel.send(("done", verdicts, starved or left or graded == GRADED_BY_ONE))
        signal.pause()  # replaced now
    finally:
        os._exit(1)


def _settle(channel: Channel, limits: Limits, server: int) -> None:
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")  # rather this one than the trainer
        limit_to(resource.RLIMIT_AS, limits.memory_bytes)
    if os.getppid() != server:
        os._exit(1)  # it died before the line above could tell us
    limit_to(resource.RLIMIT_CORE, 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what rewards print is for people and goes where messages go
    mine = channel.fileno()
    os.closerange(3, mine)  # the server's other sockets
    os.closerange(mine + 1, 4096)


def limit_to(what: int, amount: int) -> None:
    hard = resource.getrlimit(what)[1]
    amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    resource.setrlimit(what, (amount, amount))


def _allow_cpu(seconds: int) -> None:
    """The limit counts from the birth of the process, so it is moved on before each call."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    allowed = math.ceil(used.ru_utime + used.ru_stime) + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(
        resource.RLIMIT_CPU, (allowed if hard == resource.RLIM_INFINITY else min(allowed, hard), hard)
    )


def _graded(reward: Reward, attempts: Sequence[bytes]) -> list[Verdict]:
    try:
        read: list[Attempt] = [pickle.loads(attempt) for attempt in attempts]
        return judge_all(reward, read)
    except BaseException as error:  # a KeyboardInterrupt raised by a reward is as much its fault as any other
        return [failure_of(error)] if len(attempts) == 1 else [_graded(reward, [one])[0] for one in attempts]


def _children_left() -> bool:
    """Whether a child of the reward still lives; those that ended are forgotten."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
