"""Questions to a model that judges, critiques or writes, each asked once: answers are kept, and cost is bounded.

    ledger = Ledger(model, Path("judgements.jsonl"), Budget(calls=10_000))
    replies = ledger.ask([Question((user("Is 7 prime?"),))])     # Reply or Unanswered, in the order of the questions

An answer's key is a hash of the model, the messages and how it is sampled. The file is append-only, one line an
answer, on disk before it counts; a line torn by a kill is cut off. So a run that died goes on where it stopped and
pays for nothing twice, and everything a judge ever said can be read. What a server said that was no answer (busy,
broken, gone) is not kept: it is asked again next time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rung.errors import RunStopped, UserError

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    messages: tuple[Message, ...]
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int = 0
    options: tuple[
        str, ...
    ] = ()  # single letters: wanted are their log-probs as the first token of the answer


@dataclass(frozen=True)
class Reply:
    text: str
    read: int = 0  # tokens
    written: int = 0
    finish: str = "stop"
    logprobs: Mapping[str, float] = field(default_factory=dict)  # of the options among the likeliest tokens


@dataclass(frozen=True)
class Unanswered:
    """Nobody's answer: the model was away, too slow, refused, or the budget is spent."""

    reason: str
    again: bool = (
        True  # whether asking another time may help: not where the question itself cannot be answered
    )


Answered = Reply | Unanswered
Ended = Callable[[int, Answered], None]


class Model(Protocol):
    """Whoever answers. `name` tells two models apart, whose answers must never be taken for each other's."""

    name: str
    remote: bool  # it works on another machine, or in another process

    def answer(self, questions: Sequence[Question], ended: Ended, refuse: Callable[[], str]) -> None:
        """`ended(which, answer)` once for each question, in any order, in this thread.

        `refuse()` is called right before each question is put; what it says, if anything, is why it is not.
        """
        ...


@dataclass(frozen=True)
class Budget:
    """0 is no limit. Tokens are known when an answer is there: those under way may still go over it."""

    calls: int = 0
    tokens: int = 0


class Ledger:
    """A model's answers, kept. Safe to ask from several threads; several processes may share the file."""

    def __init__(self, model: Model, file: Path | None = None, budget: Budget | None = None):
        self.model, self.file, self.budget = model, file, budget or Budget()
        self.replies: dict[str, Reply] = {}
        self.tokens = self.started = self.offset = 0
        self.asked = 0  # by this process
        self.lost: Counter[str] = Counter()  # reasons of what is unanswered and may be answered another time
        self.lock = threading.Lock()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._catch_up()

    @property
    def remote(self) -> bool:
        return self.model.remote

    def ask(self, questions: Sequence[Question]) -> list[Answered]:
        """Answers in the order of the questions; of equal questions one is put."""
        keys = [digest(self.model.name, question) for question in questions]
        with self.lock:
            if self.file is not None:
                self._catch_up()
            first = {key: i for i, key in reversed(list(enumerate(keys))) if key not in self.replies}
        order = sorted(first.values())
        missing: dict[str, Unanswered] = {}

        def ended(which: int, answer: Answered) -> None:
            key = keys[order[which]]
            if isinstance(answer, Reply):
                self._keep(key, questions[order[which]], answer)
            else:
                missing[key] = answer

        if order:
            self.model.answer([questions[i] for i in order], ended, self._refuse)
        self.lost.update(each.reason for each in missing.values() if each.again)
        lost = Unanswered("the model ended without an answer")
        return [self.replies.get(key) or missing.get(key, lost) for key in keys]

    def require_all(self) -> None:
        """Stop the run where asking again may help: no row is dropped for a server's trouble or a spent budget."""
        if self.lost:
            kept = (
                f" What came is kept in {self.file}; the same command goes on from there."
                if self.file
                else ""
            )
            reason, _ = self.lost.most_common(1)[0]
            raise RunStopped(f"{self.lost.total():,} answers did not come ({reason}).{kept}", 1)

    def _refuse(self) -> str:
        with self.lock:
            if self.budget.calls and self.started >= self.budget.calls:
                return f"the budget of {self.budget.calls:,} calls is spent"
            if self.budget.tokens and self.tokens >= self.budget.tokens:
                return f"the budget of {self.budget.tokens:,} tokens is spent"
            self.started += 1
            self.asked += 1
            return ""

    def _keep(self, key: str, question: Question, reply: Reply) -> None:
        row = {"key": key, "model": self.model.name, "question": vars(question), "reply": vars(reply)}
        line = json.dumps(row, ensure_ascii=True, default=list).encode() + b"\n"
        with self.lock:
            if self.file is not None:
                append(self.file, line)
            if key not in self.replies:
                self.tokens += reply.read + reply.written
            self.replies[key] = reply

    def _catch_up(self) -> None:
        """Read what was added to the file, by an earlier run or by another process."""
        assert self.file is not None
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            file.seek(self.offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                key, reply = row["key"], Reply(**row["reply"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{self.file} holds a line that is no kept answer ({error!r}); it is written by rung alone. "
                    "Name another file, or take that line out"
                ) from error
            if key not in self.replies:
                self.replies[key] = reply
                self.tokens += reply.read + reply.written
                self.started += 1


def append(file: Path, line: bytes) -> None:
    """One whole line at the end, whoever else writes; the torn last line of a killed writer is cut off first."""
    with file.open("a+b") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        size = out.seek(0, os.SEEK_END)
        if size:
            out.seek(size - 1)
            if out.read(1) != b"\n":
                out.seek(0)
                out.truncate(out.read().rfind(b"\n") + 1)
        out.write(line)
        out.flush()


def digest(model: str, question: Question) -> str:
    told = json.dumps([model, vars(question)], sort_keys=True, default=list)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def system(content: str) -> Message:
    return {"role": "system", "content": content}
