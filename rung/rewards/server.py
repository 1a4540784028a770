"""The process between the trainer and the workers: it hands out attempts, watches the clock, and cleans up.

It is a small interpreter of its own, with one thread and without torch, so forking a worker takes milliseconds
and is safe, and its clock runs on while the trainer is busy. What a worker's reward leaves behind is adopted by
it (PR_SET_CHILD_SUBREAPER), even what moved into another session, and killed. When the trainer is gone, closed or
killed, it kills all its workers and ends.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from rung.rewards.channel import Channel
from rung.rewards.score import Failure, Verdict
from rung.rewards.worker import PR_SET_PDEATHSIG, Limits, Setup, work

LOADING_SECONDS = 120.0
TICK = 1.0  # seconds between looks at whether the trainer lives and whether anything is left over
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Job:
    """What goes to the reward in one call."""

    ids: tuple[int, ...]
    attempts: tuple[bytes, ...]  # pickled; only workers look inside

    def split(self) -> list[Job]:
        return [Job((one,), (attempt,)) for one, attempt in zip(self.ids, self.attempts, strict=True)]


@dataclass
class Worker:
    pid: int
    channel: Channel
    deadline: float
    ready: bool = False
    job: Job | None = None
    dying: bool = False  # it has been killed and not yet buried
    why: Failure | None = None  # what its attempt is told, where the way it died does not say it


@dataclass
class Server:
    control: Channel
    setup: Setup
    queue: deque[Job] = field(default_factory=deque)
    workers: dict[int, Worker] = field(default_factory=dict)
    loaded: bool = False  # some worker once loaded the reward
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    parent: int = field(default_factory=os.getppid)
    swept: float = 0.0
    worked: bool = False  # since the last sweep
    heard: float = 0.0  # when the trainer last heard that we live

    def run(self) -> None:
        awake, alarm = socket.socketpair()
        alarm.setblocking(False)
        signal.set_wakeup_fd(alarm.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)  # the wake-up byte is what matters
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            # Should we be stopped when the trainer dies, this wakes us, so that we see it and clean up.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)
        self.selector.register(self.control, selectors.EVENT_READ)
        self.selector.register(awake, selectors.EVENT_READ)
        self.start_worker()
        try:
            while not self.control.closed and os.getppid() == self.parent:
                for key, _ in self.selector.select(self.patience()):
                    if key.fileobj is awake:
                        awake.recv(4096)
                    elif key.fileobj is self.control:
                        self.queue += self.control.arrived()
                    elif not key.data.dying:
                        self.listen(key.data)
                self.bury_the_dead()
                self.end_the_late()
                self.hand_out()
                self.show_life()
                self.sweep()
        finally:
            self.end()

    def patience(self) -> float:
        next_deadline = min((w.deadline for w in self.workers.values()), default=float("inf"))
        return min(TICK, max(0.0, next_deadline - time.monotonic()))

    def start_worker(self) -> None:
        ours, theirs = socket.socketpair()
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            work(Channel(theirs), self.setup, server)
        theirs.close()
        # A worker that does not read must not stop us. (A timeout of Python's would make `arrived` wait too.)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 10, 0))
        worker = Worker(pid, Channel(ours), time.monotonic() + LOADING_SECONDS)
        self.workers[pid] = worker
        self.selector.register(worker.channel, selectors.EVENT_READ, worker)

    def listen(self, worker: Worker) -> None:
        for kind, *content in worker.channel.arrived():
            if kind == "ready":
                worker.ready, worker.deadline = True, float("inf")
                if not self.loaded:
                    self.loaded = True
                    self.control.send(("ready",))
            elif kind == "broken":
                worker.why = content[0]
            elif worker.job is not None:
                verdicts, spent = content
                self.report(worker.job, verdicts)
                worker.job, worker.deadline = None, float("inf")
                if spent:
                    self.kill(worker)
        if worker.channel.closed:
            self.kill(worker)

    def report(self, job: Job, verdicts: list[Verdict]) -> None:
        for one, verdict in zip(job.ids, verdicts, strict=True):
            self.control.send(("verdict", one, verdict))
        self.worked = True

    def kill(self, worker: Worker, why: Failure | None = None) -> None:
        worker.why = worker.why or why
        worker.dying, worker.deadline = True, float("inf")
        with suppress(KeyError, ValueError):
            self.selector.unregister(worker.channel)
        for kill in (os.killpg, os.kill):  # the group, and the worker itself should it have no group yet
            with suppress(ProcessLookupError, PermissionError):
                kill(worker.pid, signal.SIGKILL)

    def bury_the_dead(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                worker = self.workers.get(pid)
                if worker is not None:  # else: adopted, and dead by now
                    self.bury(worker, os.waitstatus_to_exitcode(status))

    def bury(self, worker: Worker, code: int) -> None:
        self.listen(worker)  # its last words
        self.kill(worker)  # and what is left of its group
        del self.workers[worker.pid]
        worker.channel.socket.close()
        self.worked = True
        failure = worker.why or cause_of_death(code, self.setup.limits)
        if not worker.ready:
            self.not_loaded(failure)
        elif worker.job is not None and len(worker.job.ids) > 1:  # whose fault it was nobody knows
            self.queue.extendleft(reversed(worker.job.split()))
        elif worker.job is not None:
            self.report(worker.job, [failure])

    def not_loaded(self, failure: Failure) -> None:
        if not self.loaded:
            self.control.send(("broken", failure))
        elif self.queue:  # one job pays for each attempt to load, so that this ends
            job = self.queue.popleft()
            detail = f"the reward could not be loaded again: {failure.detail}"
            self.report(job, [Failure(failure.kind, detail)] * len(job.ids))

    def end_the_late(self) -> None:
        now, limits = time.monotonic(), self.setup.limits
        for worker in list(self.workers.values()):
            if worker.deadline <= now:
                seconds = limits.wall_seconds if worker.job else LOADING_SECONDS
                self.kill(worker, Failure("timeout", f"no verdict after {seconds:g} s"))

    def hand_out(self) -> None:
        for worker in list(self.workers.values()):
            if self.queue and worker.ready and worker.job is None and not worker.dying:
                worker.job = self.queue.popleft()
                worker.deadline = time.monotonic() + self.setup.limits.wall_seconds
                try:
                    worker.channel.send(worker.job.attempts)
                except OSError:
                    self.kill(worker, Failure("crash", "its worker had ended or stopped and did not take it"))
                self.show_life()
        coming = sum(not worker.ready and not worker.dying for worker in self.workers.values())
        while self.loaded and len(self.queue) > coming and len(self.workers) < self.setup.workers:
            self.start_worker()
            coming += 1

    def busy(self) -> bool:
        return bool(self.queue) or any(worker.job for worker in self.workers.values())

    def show_life(self) -> None:
        """While the trainer waits for verdicts it hears every second that they may still come."""
        if self.busy() and time.monotonic() > self.heard + TICK:
            self.heard = time.monotonic()
            self.control.send(("alive",))

    def sweep(self) -> None:
        """Kill what was adopted from rewards that let go of their children, now that none is grading."""
        if self.worked and not self.busy() and time.monotonic() > self.swept + TICK:
            self.swept, self.worked = time.monotonic(), False
            kill_strangers(set(self.workers))

    def end(self) -> None:
        for worker in list(self.workers.values()):
            self.kill(worker)
        limit = time.monotonic() + 10
        while time.monotonic() < limit:
            kill_strangers(set())
            try:
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    time.sleep(0.01)
            except ChildProcessError:
                return


def kill_strangers(known: set[int]) -> None:
    import psutil

    for child in psutil.Process().children():
        if child.pid not in known:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(child.pid, signal.SIGKILL)


def end_server(process: subprocess.Popen, patience: float) -> None:
    """A server ends by itself once we are gone. One that does not, for it is stopped or hangs, is killed.

    It goes last: while it is there, stopped, all that its workers let go of is adopted by it and can be found.
    """
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience)
        return
    process.send_signal(signal.SIGSTOP)
    limit = time.monotonic() + 10
    while time.monotonic() < limit and (living := living_below(process.pid)):
        for pid in living:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    process.kill()
    process.wait()


def living_below(pid: int) -> list[int]:
    """What a process started, and what that started; the dead that nobody has buried do not count."""
    import psutil

    found = []
    with suppress(psutil.NoSuchProcess):
        for each in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [each.pid] if each.status() != psutil.STATUS_ZOMBIE else []
    return found


def cause_of_death(code: int, limits: Limits) -> Failure:
    if code == -signal.SIGXCPU:
        return Failure("timeout", f"no verdict after {limits.cpu_seconds} s of processor time")
    if code == -signal.SIGKILL:
        return Failure("crash", "killed by SIGKILL, most often by the kernel because memory ran out")
    if code < 0:
        return Failure("crash", f"the reward died of {signal.Signals(-code).name}")
    return Failure("crash", f"the reward ended its process with status {code} and gave no verdict")


def main(descriptor: int) -> None:
    control = Channel(socket.socket(fileno=descriptor))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the trainer is gone, and so are we
        Server(control, control.receive()).run()
