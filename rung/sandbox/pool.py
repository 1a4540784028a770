"""Many programs at once: one thread a core, each with its next sandbox already started.

A sandbox serves one program. What makes it quick is that the next one's walls are built and its launcher has
started before the program arrives; so what a program adds to its own time is a message and a fork.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from rung.errors import UserError
from rung.machine import usable_cores
from rung.sandbox import bubblewrap
from rung.sandbox.box import Box
from rung.sandbox.execute import execute
from rung.sandbox.languages import python
from rung.sandbox.program import Limits, Program
from rung.sandbox.result import Result

UNSAFE = (
    "rung: warning: UNSAFE: programs run on this machine as you, without any isolation: "
    "they can read and delete your files, use your network and outlive their limits"
)


def run(
    program: Program, limits: Limits | None = None, *, unsafe: bool = False, every_test: bool = False
) -> Result:
    """One program in sandboxes started for it. For more than a few, use a Pool."""
    prepare(unsafe)
    return execute(program, limits or Limits(), lambda mounts, disk: Box(mounts, disk, unsafe), every_test)


def prepare(unsafe: bool) -> None:
    if unsafe:
        print(UNSAFE, file=sys.stderr, flush=True)
    elif not sys.platform.startswith("linux"):
        raise UserError(
            "untrusted programs run in bubblewrap, which is for Linux; use a Linux machine or --unsafe"
        )
    else:
        bubblewrap.require()


class Pool:
    """`with Pool() as pool: results = pool.map(programs)`. At most `waiting` programs queue up: then submit
    waits, so that a producer of thousands is held to the speed at which they are run."""

    def __init__(self, workers: int | None = None, *, unsafe: bool = False, waiting: int | None = None):
        self.workers = workers or usable_cores()
        self.unsafe = unsafe
        prepare(unsafe)
        self.jobs: queue.Queue[Any] = queue.Queue(waiting or 4 * self.workers)
        self.closed = False
        # Daemons: a training run that dies must not wait for programs; their sandboxes die with it.
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(self.workers)]
        for thread in self.threads:
            thread.start()

    def submit(
        self, program: Program, limits: Limits | None = None, *, every_test: bool = False
    ) -> Future[Result]:
        if self.closed:
            raise RuntimeError("the pool is closed")
        future: Future[Result] = Future()
        self.jobs.put((future, program, limits or Limits(), every_test))
        return future

    def map(
        self, programs: Iterable[Program], limits: Limits | None = None, *, every_test: bool = False
    ) -> Iterator[Result]:
        """Results in the order of the programs, which are taken as they are needed."""
        waiting: deque[Future[Result]] = deque()
        for program in programs:
            waiting.append(self.submit(program, limits, every_test=every_test))
            while waiting and (waiting[0].done() or len(waiting) > 8 * self.workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def close(self) -> None:
        """Run what was submitted, then end every sandbox."""
        self.closed = True
        for _ in self.threads:
            self.jobs.put(None)
        for thread in self.threads:
            thread.join()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def work(self) -> None:
        """One thread's life. Sandboxes die with the thread that started them, so each thread keeps its own."""
        stock = Stock(self.unsafe)
        while job := self.jobs.get():
            future, program, limits, every_test = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(execute(program, limits, stock.take, every_test))
            except BaseException as error:  # belongs to whoever asked
                future.set_exception(error)
            stock.fill()
        stock.close()


class Stock:
    """Sandboxes that wait, of the kind last asked for and as many as the last program took."""

    def __init__(self, unsafe: bool):
        self.unsafe, self.taken = unsafe, 1
        self.kind: tuple[tuple[str, ...], int] = (python.find().mounts, Limits().disk)
        self.boxes: list[Box] = []
        self.fill()

    def take(self, mounts: tuple[str, ...], disk: int) -> Box:
        self.taken += 1
        while self.boxes:
            box = self.boxes.pop()
            if (box.mounts, box.disk) == (mounts, disk) and box.process.poll() is None:
                return box
            box.close()
        self.kind = (mounts, disk)
        return Box(mounts, disk, self.unsafe)

    def fill(self) -> None:
        # What stops a sandbox from starting now (no memory, no descriptors) is told to the next program.
        with contextlib.suppress(OSError, UserError):
            while len(self.boxes) < min(self.taken, 2):
                self.boxes.append(Box(*self.kind, self.unsafe))
        self.taken = 0

    def close(self) -> None:
        for box in self.boxes:
            box.close()


def shared(unsafe: bool = False) -> Pool:
    """The one pool of this process, made when first asked for; it lives as long as the process."""
    return _shared(unsafe, os.getpid())


@functools.cache
def _shared(unsafe: bool, process: int) -> Pool:  # a forked process has none of its parent's threads
    return Pool(unsafe=unsafe)
