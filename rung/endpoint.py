"""Requests to an OpenAI-compatible server, with patience.

Busy (429), broken (5xx) and vanished servers are asked again with growing pauses. What the server refuses
(another 4xx) will be refused again: that is the user's error and is shown as it came.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from rung.errors import UserError

PAUSES = (0.5, 1, 2, 4, 8, 16, 30)  # seconds before each further try
TIMEOUT = 600.0  # seconds for one answer
BUSY = (408, 409, 425, 429)
KEY = "OPENAI_API_KEY"


class Down(Exception):
    """The server did not answer, however often it was asked."""


class Refused(Exception):
    """The server understood and said no. `status` is HTTP's."""

    def __init__(self, reason: str, status: int):
        super().__init__(reason)
        self.status = status


def is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


class Endpoint:
    """A server's address, up to and with /v1. Its key is in the environment as OPENAI_API_KEY.

    `timeout` is of one try, `patience` of all tries at one request together, in seconds.
    """

    def __init__(
        self,
        url: str,
        model: str = "",
        pauses: Sequence[float] | None = None,
        timeout: float = TIMEOUT,
        patience: float = float("inf"),
    ):
        self.url, self.pauses = url.rstrip("/"), PAUSES if pauses is None else pauses
        self.timeout, self.patience = timeout, patience
        self.host = host_of(url)
        self.stopped = threading.Event()
        # A proxy cannot reach our own machine.
        local = self.host in ("localhost", "127.0.0.1", "::1")
        self.opener = urllib.request.build_opener(*[urllib.request.ProxyHandler({})] if local else [])
        self.model = model or self._only_model()

    def _only_model(self) -> str:
        try:
            found = self.ask("/models")
        except (Down, Refused) as error:
            raise UserError(
                f"{self.url} cannot be asked which models it serves ({error}). Check that the server runs and "
                "the address ends as the server's does, often in /v1; or say which model: --name MODEL"
            ) from error
        names = [str(entry.get("id")) for entry in found.get("data", [])]
        if len(names) != 1:
            raise UserError(f"{self.url} serves {', '.join(names) or 'no model'}; say which: --name MODEL")
        return names[0]

    def ask(self, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One request, again after each pause while the server is busy or away."""
        reason, until = "it was not asked", time.monotonic() + self.patience
        for pause in (*self.pauses, None):
            try:
                return self._once(path, content)
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code}: {body_of(error)}"
                if error.code < 500 and error.code not in BUSY:
                    raise Refused(reason, error.code) from error
                pause = asked_pause(error.headers.get("Retry-After"), pause)
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
            if pause is None or time.monotonic() + pause > until or self.stopped.wait(pause):
                break
        raise Down(reason)

    def _once(self, path: str, content: Mapping[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        with self.opener.open(request, timeout=self.timeout) as response:
            found = json.loads(response.read())
        if not isinstance(found, dict):
            raise ValueError(f"the answer is a JSON {type(found).__name__}, not an object")
        return found


def host_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.hostname and (parts.port is None or parts.port):
            return parts.hostname
    except ValueError:  # a port that is no number
        pass
    raise UserError(f"{url} is no address of a server; write it as in http://127.0.0.1:8000/v1")


def body_of(error: urllib.error.HTTPError) -> str:
    with suppress(OSError, http.client.HTTPException):  # the connection may break while it explains itself
        return error.read().decode("utf-8", "replace")[:500]
    return ""


def asked_pause(header: str | None, pause: float | None) -> float | None:
    """The server may say how long to wait; never less than we would, never more than a minute."""
    if pause is None or header is None or not header.strip().isdigit():
        return pause
    return max(pause, min(float(header), 60.0))
