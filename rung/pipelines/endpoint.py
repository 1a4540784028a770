"""Tasks played through an OpenAI-compatible server, a few requests at a time.

When the server does not answer any more, however often it is asked (`rung.endpoint`), no further request is made,
answers under way are still taken, and the run stops with what it has.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from rung.endpoint import Down, Endpoint, Refused
from rung.envs.environment import Environment, Task
from rung.errors import RunStopped, UserError
from rung.eval.records import Prompt
from rung.rollouts.request import Sampling


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
            raise Refused(f"an answer without choices: {json.dumps(found)[:300]}", 200)
        return choices[0], int((found.get("usage") or {}).get("completion_tokens") or 0)


def explained(trouble: Sequence[BaseException], endpoint: Endpoint) -> BaseException:
    """The first that is not only an echo of the stop."""
    first = next((t for t in trouble if not isinstance(t, Down)), trouble[0])
    if isinstance(first, Down):
        return RunStopped(f"{endpoint.url} does not answer any more ({first}).", 1)
    if isinstance(first, Refused):
        return UserError(f"{endpoint.url} refuses what it is asked as {endpoint.model}: {first}")
    return first
