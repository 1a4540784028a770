"""The other side of `rung.rollouts.vllm`: runs under vLLM's own Python, where rung is not installed.

    serve.py SOCKET PARENT

One JSON object a line comes in over the socket, one goes back; what anything prints goes to a log and cannot
disturb them. Here is the protocol: which weights are held, which requests they are meant for. Run as a script, this
folder alone is added to the path, so its files import each other by their bare names.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PR_SET_PDEATHSIG = 1
TURN_SECONDS = 1.0  # after this long without an ended answer, say so: silence means something hangs
HEAD = "lm_head.weight"  # in some files also where it is the embedding


class Refused(Exception):
    """What was asked cannot be done, and nothing was changed."""


def main(open_backend: Callable[[dict], Any]) -> None:
    connection, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == parent:  # or it died before the line above
        serve(connection, open_backend)


def serve(connection: socket.socket, open_backend: Callable[[dict], Any]) -> None:
    """Answer until the other end closes."""
    worker = Worker(open_backend)
    for line in connection.makefile("r", encoding="utf-8"):
        message = json.loads(line)
        try:
            answer = {"done": getattr(worker, message["do"])(message)}
        except Refused as error:
            answer = {"refused": str(error)}
        except Exception as error:  # the boundary: whatever vLLM raises is told
            traceback.print_exc()
            answer = {"failed": f"{type(error).__name__}: {error}"}
        connection.sendall(json.dumps({"number": message["number"], **answer}).encode() + b"\n")


class Worker:
    """The weights that are held and the requests in flight. Every method is a message's `do`."""

    def __init__(self, open_backend: Callable[[dict], Any]):
        self.open_backend = open_backend
        self.held: tuple[int, str] | None = (
            None  # (version, digest) of the weights; None: half of a push, nothing to sample from
        )

    def open(self, message: dict) -> dict:
        self.fingerprint = load_fingerprint(message["fingerprint"])
        self.backend: Any = self.open_backend(message)
        files = sorted(Path(message["model"]).glob("*.safetensors"))
        tensors = {name: tensor for file in files for name, tensor in read(file).items()}
        self.names = frozenset(tensors)
        self.held = (0, self.fingerprint(cast(tensors, message["dtype"])))
        return {**self.backend.facts, "digest": self.held[1]}

    def push(self, message: dict) -> dict:
        self.abort(message)
        if self.backend.busy:
            raise Refused("answers are in flight; let them end, or abort them, before the weights change")
        tensors = read(message["file"])
        digest = self.fingerprint(tensors)
        if digest != message["digest"]:
            raise Refused(f"the weights that arrived have digest {digest}, not {message['digest']}")
        strange = set(tensors) ^ self.names
        strange -= {HEAD} if self.backend.tied else set()
        if strange:
            raise Refused(
                f"the weights are not those of the model vLLM opened: {len(strange)} names are on one side only, "
                f"such as {min(strange)}"
            )
        self.held = None
        self.backend.load(tensors)
        self.held = (message["version"], digest)
        return {"digest": digest}

    def abort(self, message: dict) -> None:
        """Every message says which requests nobody waits for any more."""
        for one in message["abort"]:
            self.backend.abort(one)

    def step(self, message: dict) -> dict:
        """Take requests, forget aborted ones, go on until some answer ended or a moment passed."""
        self.abort(message)
        if self.held is None or [*self.held] != message["held"]:
            raise Refused(
                f"it holds weights (version, digest) {self.held}, and {message['held']} were asked for"
            )
        for request in message["requests"]:
            self.backend.submit(request)
        ended: list[dict] = []
        until = time.monotonic() + TURN_SECONDS
        while self.backend.busy and not ended and time.monotonic() < until:
            ended = self.backend.step()
        return {"ended": ended}


def load_fingerprint(path: str) -> Callable[[dict], str]:
    """rung's own, from its file: there is no second definition of a digest."""
    spec = importlib.util.spec_from_file_location("fingerprint", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda tensors: module.fingerprint(SimpleNamespace(named_parameters=tensors.items))


def read(file: str | Path) -> dict:
    from safetensors.torch import load_file

    return load_file(file)


def cast(tensors: dict, dtype: str) -> dict:
    import torch

    return {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}


if __name__ == "__main__":
    from backend import Vllm

    main(Vllm)
