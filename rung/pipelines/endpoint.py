"""Answers from an OpenAI-compatible server, a few requests at a time.

Busy (429), broken (5xx) and vanished servers are asked again with growing pauses; when patience ends, no further
request is made, answers under way are still taken, and the run stops with what it has. What the server refuses
(another 4xx) will be refused again: that is the user's error and is shown as it came.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from rung.envs.environment import Environment, Task
from rung.errors import RunStopped, UserError
from rung.eval.records import Prompt
from rung.rollouts.request import Sampling

PAUSES = (0.5, 1, 2, 4, 8, 16, 30)  # seconds before each further try
TIMEOUT = 600  # seconds for one answer
BUSY = (408, 409, 425, 429)
KEY = "OPENAI_API_KEY"


class Down(Exception):
    """The server did not answer, however often it was asked."""


class Refused(Exception):
    """The server understood and said no."""


def is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


class Endpoint:
    """A server's address, up to and with /v1. Its key is in the environment as OPENAI_API_KEY."""

    def __init__(self, url: str, model: str = "", pauses: Sequence[float] | None = None):
        self.url, self.pauses = url.rstrip("/"), PAUSES if pauses is None else pauses
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
        reason = "it was not asked"
        for pause in (*self.pauses, None):
            try:
                return self._once(path, content)
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code}: {body_of(error)}"
                if error.code < 500 and error.code not in BUSY:
                    raise Refused(reason) from error
                pause = asked_pause(error.headers.get("Retry-After"), pause)
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
            if pause is None or self.stopped.wait(pause):
                break
        raise Down(reason)

    def _once(self, path: str, content: Mapping[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        with self.opener.open(request, timeout=TIMEOUT) as response:
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


class EndpointPlayer:
    """Tasks played through chat completions. Prompts are rendered by the server: what it made of them is unknown."""

    def __init__(
        self, endpoint: Endpoint, environment: Environment, sampling: Sampling, concurrency: int = 8
    ):
        if environment.tools:
            raise UserError(
                f"{environment.name} passes its tools through the chat template, and a server would return calls in "
                "a form of its own; leave tools_in_template out, so that the prompt explains the tools"
            )
        if concurrency < 1:
            raise UserError(f"{concurrency} requests at once; ask for at least 1")
        self.endpoint, self.environment, self.concurrency = endpoint, environment, concurrency
        self.asked = sampling
        self.model: dict[str, Any] = {"name": endpoint.model, "digest": ""}
        self.engine: dict[str, Any] = {"name": "endpoint", "host": endpoint.host}
        kept = ("max_tokens", "temperature", "top_p", "seed")
        self.sampling: dict[str, Any] = {name: getattr(sampling, name) for name in kept}

    def prompts(self, tasks: Sequence[Task]) -> list[Prompt]:
        return [Prompt(t.key, t.messages, "", (), t.reference, t.extra) for t in tasks]

    def play(self, asks: Sequence[tuple[Task, int]], ended: Callable[[int, dict[str, Any]], None]) -> None:
        """`ended` is called in this thread. Threads are daemons: nobody waits for them after an interruption."""
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        for which in range(len(asks)):
            todo.put(which)

        def work() -> None:
            while not self.endpoint.stopped.is_set():
                try:
                    which = todo.get_nowait()
                except queue.Empty:
                    break
                try:
                    answers.put((which, self._episode(*asks[which])))
                except BaseException as error:  # carried to the thread that waits, whatever it is
                    answers.put((which, error))
                    self.endpoint.stopped.set()
            answers.put((-1, None))

        working = min(self.concurrency, len(asks))
        for _ in range(working):
            threading.Thread(target=work, daemon=True).start()
        trouble: list[BaseException] = []
        try:
            while working:
                which, answer = answers.get()
                if which < 0:
                    working -= 1
                elif isinstance(answer, BaseException):
                    trouble.append(answer)
                else:
                    ended(which, answer)
        finally:
            self.endpoint.stopped.set()
        if trouble:
            raise explained(trouble, self.endpoint)

    def _episode(self, task: Task, seed: int) -> dict[str, Any]:
        messages = [dict(message) for message in task.messages]
        tokens, turns = 0, 0
        while True:
            choice, used = self._turn(messages, (seed + turns * 7_919) % (1 << 31))
            text = choice["message"].get("content") or ""
            messages.append({"role": "assistant", "content": text})
            tokens, turns = tokens + used, turns + 1
            finish = "length" if choice.get("finish_reason") == "length" else "stop"
            reply = self.environment.reply
            more = (
                reply(task, messages)
                if reply and finish == "stop" and turns < self.environment.max_turns
                else None
            )
            if more is None:
                break
            messages += [dict(message) for message in more]
        after = tuple(messages[len(task.messages) :])
        return {"answer": text, "token_ids": (), "finish": finish, "tokens": tokens, "messages": after}

    def _turn(self, messages: list[dict[str, Any]], seed: int) -> tuple[dict[str, Any], int]:
        asked = self.sampling | {"model": self.endpoint.model, "messages": messages, "seed": seed}
        found = self.endpoint.ask("/chat/completions", asked)
        choices = found.get("choices")
        if not choices or not isinstance(choices[0].get("message"), dict):
            raise Refused(f"an answer without choices: {json.dumps(found)[:300]}")
        return choices[0], int((found.get("usage") or {}).get("completion_tokens") or 0)


def explained(trouble: Sequence[BaseException], endpoint: Endpoint) -> BaseException:
    """The first that is not only an echo of the stop."""
    first = next((t for t in trouble if not isinstance(t, Down)), trouble[0])
    if isinstance(first, Down):
        return RunStopped(f"{endpoint.url} does not answer any more ({first}).", 1)
    if isinstance(first, Refused):
        return UserError(f"{endpoint.url} refuses what it is asked as {endpoint.model}: {first}")
    return first
