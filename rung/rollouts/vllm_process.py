"""A process that answers JSON messages: started, asked, watched, and never left behind.

It talks over a socket of its own; what it prints goes to a log, of which an error tells the last lines. It leads
a session, so that Ctrl-C does not reach it and its children end with it, and it dies with the process that
started it, however that dies.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from rung.errors import UserError

LAST_WORDS = 15  # lines of the log
CLOSING_SECONDS = 5.0
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")  # they mean our Python, not its


class WorkerFailed(UserError):
    """The worker died, hangs or raised; its last words are in the message."""


class WorkerProcess:
    """Start `[python, script, socket, our pid]`. Start it in a thread that lives as long as it should.

    (Linux kills it when that thread ends.) `seconds` is how long any one answer may take.
    """

    def __init__(self, name: str, python: str, script: Path, seconds: float):
        self.name, self.seconds, self.number = name, seconds, 0
        self.folder = Path(tempfile.mkdtemp(prefix="rung-worker-"))
        self.log = self.folder / "log"
        self.socket, theirs = socket.socketpair()
        environment = {key: value for key, value in os.environ.items() if key not in FOREIGN}
        try:
            with theirs, self.log.open("wb") as log:
                self.process = subprocess.Popen(
                    [python, str(script), str(theirs.fileno()), str(os.getpid())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=environment,
                )
        except OSError as error:
            self.socket.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise UserError(f"{name} cannot be started with {python}: {error.strerror}.") from error
        self._buffer = bytearray()
        self.end = weakref.finalize(self, _end, self.process, self.socket, self.folder)

    def ask(self, do: str, **content: Any) -> Any:
        """What it answers; UserError with its reason where it refuses, WorkerFailed where it cannot answer."""
        if not self.end.alive:
            raise WorkerFailed(f"{self.name} was closed; make a new one.")
        self.number += 1
        until = time.monotonic() + self.seconds
        line = json.dumps({"number": self.number, "do": do, **content}).encode() + b"\n"
        try:
            self._send(line)
            answer = self._receive(until)
            while answer["number"] != self.number:  # to a question whose asker was interrupted
                answer = self._receive(until)
        except TimeoutError as error:
            raise self._failed(f"{self.name} did not answer to `{do}` within {self.seconds:g} s") from error
        except (EOFError, OSError) as error:
            raise self._failed(f"{self.name} died at `{do}`{self._exit()}") from error
        if "refused" in answer:
            raise UserError(f"{self.name} refuses to {do}: {answer['refused']}.")
        if "failed" in answer:
            raise WorkerFailed(f"{self.name} failed at `{do}`: {answer['failed']}\n{self.last_words()}")
        return answer["done"]

    def close(self) -> None:
        """Let it end by itself, and see to it where it does not."""
        if self.end.alive:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(CLOSING_SECONDS)
        self.end()

    def last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return "\n".join(["Its last words:", *lines[-LAST_WORDS:]] if lines else ["It said nothing."])

    def _send(self, line: bytes) -> None:
        self.socket.settimeout(self.seconds)
        try:
            self.socket.sendall(line)
        except KeyboardInterrupt:  # half a line may be there: nothing after it would be understood
            self.end()
            raise

    def _receive(self, until: float) -> Any:
        while b"\n" not in self._buffer:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.socket.settimeout(left)
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return json.loads(line)

    def _failed(self, what: str) -> WorkerFailed:
        words = self.last_words()
        self.end()
        return WorkerFailed(f"{what}.\n{words}")

    def _exit(self) -> str:
        """How it ended. The socket closes a moment before the process is gone."""
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(CLOSING_SECONDS)
            return f" ({signal.Signals(-code).name})" if code < 0 else f" (exit status {code})"
        return ""


def _end(process: subprocess.Popen, connection: socket.socket, folder: Path) -> None:
    connection.close()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)
