"""One sandbox: a launcher behind walls, waiting for orders. Starting one early is what makes a pool warm.

A box serves one program and is then thrown away, so no program sees anything of another. Its files, runs and
results cross one pair of pipes; what crosses is bounded here too, whatever the launcher was made to say.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.sandbox import bubblewrap, cgroup, seccomp
from rung.sandbox.program import Limits

GRACE = 5.0  # seconds the launcher has beyond what it was told to wait
TAKING = 15.0  # seconds it has to take an order and to write the files of one
HEADER = 1 << 16
ENTER = 'while [ "$1" != -- ]; do echo $$ > "$1"; shift; done; shift; exec "$@"'  # into its control groups
ROOM = 64  # processes and megabytes that the launcher may have beside its programs


class BoxDied(Exception):
    """The launcher ended or did not answer."""


@dataclass(frozen=True)
class Outcome:
    """One run in a box. `why` is the limit it hit, or empty."""

    exit: int | None
    signal: int | None
    why: str
    seconds: float
    cpu: float
    memory: int
    stdout: bytes
    stderr: bytes


class Box:
    """`mounts` are further read-only folders, `disk` the bytes it may write."""

    def __init__(self, mounts: tuple[str, ...], disk: int, unsafe: bool = False):
        self.mounts, self.disk, self.unsafe = mounts, disk, unsafe
        self.channel, inner = socket.socketpair()
        self.folder = tempfile.mkdtemp(prefix="rung-unsafe-") if unsafe else None
        self.group = None if unsafe else cgroup.make()
        self.work = self.folder or bubblewrap.WORK
        filter_read, command = self.command(inner.fileno())
        passed = [number for number in (filter_read, inner.fileno()) if number is not None]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=passed,
            env=bubblewrap.ENVIRONMENT,
            start_new_session=True,
        )
        inner.close()
        if filter_read is not None:
            os.close(filter_read)

    def command(self, channel: int) -> tuple[int | None, list[str]]:
        launcher = [bubblewrap.python(), "-I", "-S"]
        if self.unsafe:
            return None, [*launcher, str(bubblewrap.INSIDE / "launcher.py"), self.work, str(channel)]
        launcher += ["/rung/launcher.py", self.work, str(channel)]
        code, reader = seccomp.program(), None
        if code is not None:
            reader, writer = os.pipe()
            os.write(writer, code)  # a few kilobytes: a pipe holds them
            os.close(writer)
        mounts = tuple(dict.fromkeys((*bubblewrap.python_mounts(), *self.mounts)))
        walls = [*bubblewrap.arguments(mounts, self.disk, reader), *launcher]
        if self.group is None:
            return reader, walls
        doors = [str(folder / "cgroup.procs") for folder in self.group.folders]
        return reader, ["/bin/sh", "-c", ENTER, "sh", *doors, "--", *walls]

    # ---- orders ----

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files below the working folder."""
        self.send({"do": "files", "names": list(files)}, *files.values())
        self.receive(TAKING, 0)

    def start(
        self,
        argv: Sequence[str],
        limits: Limits,
        seconds: float,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        channel: bool = False,
    ) -> None:
        """Begin a run; `finish` waits for its end. With `channel` the program holds our socket as fd 3."""
        if self.group is not None:
            self.group.limit(limits.memory + limits.disk + (ROOM << 20), limits.processes + ROOM)
        env = {**bubblewrap.ENVIRONMENT, **(environment or {})}
        if self.unsafe:
            env |= {"HOME": self.work, "TMPDIR": self.work}
        bounds = {**vars(limits), "seconds": seconds}
        self.send({"do": "run", "argv": list(argv), "env": env, "limits": bounds, "channel": channel}, stdin)
        self.until, self.bound = time.monotonic() + seconds + GRACE, limits.output + (1 << 17)

    def finish(self) -> Outcome:
        header, (stdout, stderr) = self.receive(self.until - time.monotonic(), 2)
        why = header["why"]
        if not why and header["signal"] == signal.SIGXCPU:
            why = "timeout"
        if self.group is not None and why in ("", "timeout") and self.group.ran_out():
            why = "memory"
        return Outcome(
            header["exit"],
            header["signal"],
            why,
            header["seconds"],
            header["cpu"],
            header["memory"],
            stdout,
            stderr,
        )

    def run(self, argv: Sequence[str], limits: Limits, seconds: float, **more: Any) -> Outcome:
        self.start(argv, limits, seconds, **more)
        return self.finish()

    # ---- the pipes ----

    def send(self, header: dict[str, Any], *blobs: bytes) -> None:
        head = json.dumps(header | {"blobs": [len(blob) for blob in blobs]}).encode()
        assert self.process.stdin
        descriptor, until = self.process.stdin.fileno(), time.monotonic() + TAKING
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        os.set_blocking(descriptor, False)  # a launcher that was stopped reads nothing and must not stop us
        for part in (struct.pack("<I", len(head)), head, *blobs):
            left = memoryview(part)
            while left:
                if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                    raise BoxDied("the sandbox did not take its orders in time")
                try:
                    left = left[os.write(descriptor, left) :]
                except BlockingIOError:
                    continue  # less room than the pipe wants at once
                except BrokenPipeError:
                    raise BoxDied(self.last_words()) from None

    def receive(self, seconds: float, blobs: int) -> tuple[dict[str, Any], list[bytes]]:
        until = time.monotonic() + seconds
        size = struct.unpack("<I", self.read(4, until))[0]
        if size > HEADER:
            raise BoxDied("the launcher answered nonsense")
        header = json.loads(self.read(size, until))
        lengths = header["blobs"]
        if len(lengths) != blobs or sum(lengths) > self.bound if blobs else lengths:
            raise BoxDied("the launcher answered nonsense")
        return header, [self.read(length, until) for length in lengths]

    def read(self, size: int, until: float) -> bytes:
        assert self.process.stdout
        descriptor, parts = self.process.stdout.fileno(), []
        while size:
            ready = select.poll()
            ready.register(descriptor, select.POLLIN)
            if not ready.poll(max(0.0, until - time.monotonic()) * 1000):
                raise BoxDied("the sandbox did not answer in time")
            part = os.read(descriptor, min(size, 1 << 20))
            if not part:
                raise BoxDied(self.last_words())
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def last_words(self) -> str:
        """Why the launcher ended, as bubblewrap or Python put it."""
        if self.group is not None and self.group.ran_out():
            return "memory"
        self.kill()
        assert self.process.stderr
        words = self.process.stderr.read(4096).decode("utf-8", "replace").strip()
        return words or f"the sandbox ended with status {self.process.returncode}"

    # ---- the end ----

    def kill(self) -> None:
        """Returns when the last process inside is gone.

        The kernel buries a namespace before it reports the end of its first process, and bubblewrap waits for
        that report; so the first process is killed rather than bubblewrap.
        """
        if self.process.poll() is None:
            pid = self.process.pid
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                victims = family(pid) if self.unsafe else [int(child) for child in children]
                for victim in victims or [pid]:
                    os.kill(victim, signal.SIGKILL)
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def close(self) -> None:
        """Kill it and leave nothing behind."""
        self.kill()
        self.channel.close()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                if pipe:
                    pipe.close()
        if self.group is not None:
            self.group.remove()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def family(pid: int) -> list[int]:
    """A process and all its descendants, oldest first."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    return found
