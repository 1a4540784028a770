"""Grading that cannot hang, crash or starve the trainer: rewards run in processes that can be killed.

    with Graders(reward, workers=4, wall_seconds=20) as graders:
        handles = [graders.submit([attempt]) for attempt in ...]     # while rollouts are still being made
        verdicts = [handle.verdicts() for handle in handles]

Whatever the reward does, spin, sleep, ignore signals, allocate, fork, crash or return nonsense, each attempt
gets its verdict: a Failure of its kind for what failed, the right Score for the others. Nothing here waits
without end, for the process that watches the workers either: if that is stopped from outside, it and all it
started are killed, what it had in hand is a Failure, and the next attempts get a new one. A reward that declares
itself `trusted` (quick, pure, always ending) is called right here and no process is made; one that also `waits`
for another machine, as a judge does, is called in a thread, so that sampling goes on.

Limits hold for one call of the reward, and the clock starts when a worker takes the call, not in the queue. A
reward that takes many attempts in one call (TRL's form) gets each `submit` as one call; if that dies, each
attempt is asked for alone, so that only the guilty one fails. This is protection from accidents. It is no wall
against malice: what a model wrote is run in rung.sandbox.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from rung.errors import UserError
from rung.machine import usable_cores
from rung.rewards.calling import is_trusted, judge_all
from rung.rewards.channel import Channel
from rung.rewards.score import Attempt, Failure, Reward, Verdict
from rung.rewards.server import LOADING_SECONDS, TICK, Job, end_server
from rung.rewards.user import files_behind
from rung.rewards.worker import Limits, Setup

# The server finds modules where we find them, whatever the working directory is by then.
START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from rung.rewards.server import main; main(int(sys.argv[2]))"
)
PATIENCE = 15.0  # seconds that a server has to end when it is told to
SILENT_TICKS = 60  # without a sign from a server that has attempts in hand: it was stopped, or hangs
# One thread each, and sets that iterate in the same order in every run: grading repeats exactly.
THREADS = 8  # groups a judge has in hand at once; each puts several questions
SURROUNDINGS = {
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Grading:
    """Attempts handed in, their verdicts to come."""

    futures: tuple[Future[Verdict], ...]

    def done(self) -> bool:
        return all(future.done() for future in self.futures)

    def verdicts(self, timeout: float | None = None) -> list[Verdict]:
        """In the order of the attempts. Waits, at most `timeout` seconds for each."""
        return [future.result(timeout) for future in self.futures]


class Graders:
    """A pool of workers for one reward. Safe to use from several threads; close it, or use it in `with`."""

    def __init__(
        self,
        reward: Reward,
        *,
        workers: int | None = None,  # None: one per core
        wall_seconds: float = 20.0,
        cpu_seconds: int = 20,
        memory_bytes: int = 4 << 30,
    ):
        workers = usable_cores() if workers is None else workers
        if workers < 1 or wall_seconds <= 0 or cpu_seconds < 1 or memory_bytes < 1 << 26:
            raise UserError(
                f"graders with {workers} workers, {wall_seconds} s of wall time, {cpu_seconds} s of processor time and "
                f"{memory_bytes} bytes; give at least 1 worker, some time, 1 s and {1 << 26} bytes"
            )
        self._reward = reward
        self._next = 0
        self._pending: dict[int, Future[Verdict]] = {}
        self._lock = threading.Lock()  # of what is pending; never held while sending, which may have to wait
        self._sending = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._closed = False
        waits = is_trusted(reward) and getattr(reward, "waits", False)
        self._waiting = threading.BoundedSemaphore(THREADS) if waits else None
        if not is_trusted(reward):
            limits = Limits(wall_seconds, int(cpu_seconds), int(memory_bytes))
            content = _pickled(reward)
            self._setup = Setup(content, files_behind(content), workers, limits)
            self._start()

    @property
    def batched(self) -> bool:
        """Whether the reward wants to see many attempts in one call, as TRL's functions do."""
        return bool(getattr(self._reward, "batched", False))

    def grade(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        return self.submit(attempts).verdicts()

    def submit(self, attempts: Sequence[Attempt]) -> Grading:
        """Hand attempts in and go on working."""
        if self._closed:
            raise RuntimeError("these graders are closed")
        futures: tuple[Future[Verdict], ...] = tuple(Future() for _ in attempts)
        if self._waiting is not None:  # a daemon: nobody waits for a judge's answer after an interruption
            threading.Thread(target=self._judge_here, args=(list(attempts), futures), daemon=True).start()
            return Grading(futures)
        if is_trusted(self._reward):
            self._judge_here(attempts, futures)
            return Grading(futures)
        pickles = tuple(pickle.dumps(attempt) for attempt in attempts)
        with self._lock:
            if self._process is None:
                self._start()  # the last server died, which its attempts were told
            ids = tuple(range(self._next, self._next + len(futures)))
            self._next += len(futures)
            self._pending.update(zip(ids, futures, strict=True))
            channel = self._channel
        whole = Job(ids, pickles)
        with self._sending, suppress(OSError):  # a server just dead: the reader tells the attempts
            for job in [whole] if self.batched and attempts else whole.split():
                channel.send(job)
        return Grading(futures)

    def _judge_here(self, attempts: Sequence[Attempt], futures: Sequence[Future[Verdict]]) -> None:
        with self._waiting or nullcontext():
            verdicts = judge_all(self._reward, attempts)
        for future, verdict in zip(futures, verdicts, strict=True):
            future.set_result(verdict)

    def close(self) -> None:
        """End all workers, now. Attempts without a verdict raise where they are waited for."""
        self._closed = True
        process = self._process
        if process is None:
            return
        with suppress(OSError):
            self._channel.socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        end_server(process, PATIENCE)

    def __enter__(self) -> Graders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        """A server and its first worker, which must be able to load the reward."""
        ours, theirs = socket.socketpair()
        path = json.dumps([os.path.abspath(entry) for entry in sys.path])
        process = subprocess.Popen(
            [sys.executable, "-c", START, path, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the trainer, which then closes us
            env={**os.environ, **SURROUNDINGS},
        )
        theirs.close()
        channel = Channel(ours)
        ours.settimeout(LOADING_SECONDS + 30)
        try:
            channel.send(self._setup)
            kind, *content = channel.receive()
            ours.settimeout(None)
        except (EOFError, OSError) as error:
            kind, content = (
                "broken",
                [Failure("crash", f"its process ended or hung as it started: {error!r}")],
            )
        except BaseException:
            ours.close()
            raise
        if kind == "broken":
            ours.close()
            end_server(process, PATIENCE)
            raise UserError(f"the reward {self._reward!r} cannot be loaded in a worker: {content[0].detail}")
        self._process, self._channel = process, channel
        self._reader = threading.Thread(target=self._read, args=(process, channel), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen, channel: Channel) -> None:
        """Hand verdicts to those who wait, as long as there is a server that shows life."""
        silent = 0  # ticks that we were awake for, so that a sleep of the whole machine is no silence
        while not channel.closed and silent < SILENT_TICKS:
            silent = 0 if channel.stirs(TICK) or not self._pending else silent + 1
            for kind, *content in channel.arrived():
                if kind == "verdict":
                    one, verdict = content
                    with self._lock:
                        future = self._pending.pop(one)
                    future.set_result(verdict)
        told = Failure("crash", "the process that runs the graders died")
        if not channel.closed:
            told = Failure(
                "timeout", f"the process that runs the graders was silent for {SILENT_TICKS * TICK:g} s"
            )
            end_server(process, patience=0)
        with self._lock:
            orphans, self._pending = list(self._pending.values()), {}
            if not self._closed:
                self._process = None
                end_server(process, PATIENCE)
            channel.socket.close()
        for future in orphans:
            if self._closed:
                future.set_exception(RuntimeError("the graders were closed before this attempt was graded"))
            else:
                future.set_result(told)


def _pickled(reward: Reward) -> bytes:
    try:
        content = pickle.dumps(reward)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"the reward {reward!r} cannot be sent to a worker process ({error}); define it at the top level of a "
            'module, or in a file that load_reward("file.py:function") reads'
        ) from error
    if b"__main__" in content:
        raise UserError(
            f"the reward {reward!r} is defined in the script that runs, which a worker does not run again; move it "
            'into a file of its own and use load_reward("file.py:function")'
        )
    return content
