"""A model behind an OpenAI-compatible server, asked several questions at once.

A server that is busy, broken, slow or gone is asked again for as long as patience lasts; then the question is
Unanswered. After as many of those in a row as there are requests at once, the rest of the questions is not put any
more: a server that is gone is not waited for ten thousand times. The next batch tries again. What the server
refuses for this question (400, 413, 422) is Unanswered; what it would refuse for all (401, 403, 404) is the user's
error.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rung.endpoint import Down, Endpoint, Refused
from rung.errors import UserError
from rung.rewards.asking import Answered, Ended, Question, Reply, Unanswered

OF_THIS_QUESTION = (400, 413, 422)
TOP = 20  # the most that servers report


class EndpointModel:
    remote = True

    def __init__(self, endpoint: Endpoint, concurrency: int = 8):
        self.endpoint, self.concurrency = endpoint, concurrency
        self.name = f"{endpoint.model} at {endpoint.host}"

    def answer(self, questions: Sequence[Question], ended: Ended, refuse: Callable[[], str]) -> None:
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        answers: queue.SimpleQueue[tuple[int, Answered | BaseException]] = queue.SimpleQueue()
        for which in range(len(questions)):
            todo.put(which)
        given_up = threading.Event()
        in_a_row = [0]

        def one(question: Question) -> Answered:
            if given_up.is_set():
                return Unanswered(f"{self.endpoint.url} does not answer any more")
            if reason := refuse():
                return Unanswered(reason)
            try:
                reply = self._ask(question)
                in_a_row[0] = 0
                return reply
            except Down as error:
                in_a_row[0] += 1
                if in_a_row[0] >= self.concurrency:
                    given_up.set()
                return Unanswered(f"{self.endpoint.url} does not answer ({error})")

        def work() -> None:
            while True:
                try:
                    which = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    answers.put((which, one(questions[which])))
                except BaseException as error:  # carried to the thread that waits, whatever it is
                    given_up.set()
                    answers.put((which, error))

        for _ in range(min(self.concurrency, len(questions))):
            threading.Thread(target=work, daemon=True).start()
        trouble: BaseException | None = None
        try:
            for _ in questions:  # answers under way are taken and kept, also after trouble
                which, answer = answers.get()
                if isinstance(answer, BaseException):
                    trouble = trouble or answer
                else:
                    ended(which, answer)
        except BaseException:
            self.endpoint.stopped.set()
            given_up.set()
            raise
        if trouble is not None:
            raise trouble

    def _ask(self, question: Question) -> Answered:
        asked: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": list(question.messages),
            "max_tokens": question.max_tokens,
            "temperature": question.temperature,
            "seed": question.seed,
        }
        if question.options:
            asked |= {"logprobs": True, "top_logprobs": TOP}
        try:
            found = self.endpoint.ask("/chat/completions", asked)
        except Refused as error:
            if error.status in OF_THIS_QUESTION:
                return Unanswered(f"the server refused the question: {error}", again=False)
            raise UserError(
                f"{self.endpoint.url} refuses what it is asked as {self.endpoint.model}: {error}"
            ) from error
        return reply_of(found, question)


def reply_of(found: dict[str, Any], question: Question) -> Answered:
    """What a server sent, or that it is no answer."""
    try:
        choice = found["choices"][0]
        text, usage = choice["message"].get("content") or "", found.get("usage") or {}
        read, written = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        if not isinstance(text, str):
            raise TypeError("content is no text")
        listed: list[dict[str, Any]] = []
        if question.options:
            listed = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
        likeliest = [(str(each["token"]), float(each["logprob"])) for each in listed]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return Unanswered(f"the server's answer is none ({error!r}): {str(found)[:200]}", again=False)
    finish = "length" if choice.get("finish_reason") == "length" else "stop"
    return Reply(text, read, written, finish, logprobs_of_options(question.options, likeliest))


def logprobs_of_options(options: Sequence[str], likeliest: Sequence[tuple[str, float]]) -> dict[str, float]:
    """log of the mass of all tokens that spell an option, such as `A`, ` A` and `(A`; absent where there is none."""
    found: dict[str, float] = {}
    for token, logprob in likeliest:
        spelt = token.strip(" \n\t\u0120\u2581([\"'*").rstrip(")].:").upper()
        if spelt in options:
            found[spelt] = float(np.logaddexp(found.get(spelt, -np.inf), logprob))
    return found
