"""The one thread that owns a sampler, and the way to it from asyncio.

Samplers are not for several threads at once, and a step would block an event loop. So a thread of its own
runs the steps of whatever is in flight; requests come to it as jobs, between two steps, and what a step
sampled goes back as copies. A job or a step that fails fails the requests it was for, and the thread goes on.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from rung.batch import Example, collate
from rung.models.policy import score
from rung.rollouts.engine import Engine
from rung.rollouts.hf import HfSampler, _Batch
from rung.rollouts.request import Completion, Sampling

logger = logging.getLogger(__name__)

Top = tuple[list[int], list[float]]


class Failed(Exception):
    """The sampler failed under a request; what happened is in the log."""


class Stopped(Exception):
    """The request was ended because the server stops."""


class Piece(NamedTuple):
    """What a few steps added to one of a request's answers."""

    number: int  # of the answer
    token_ids: list[int]
    logprob: list[float]  # under the model itself
    top: list[Top]
    finish: str
    completion: Completion  # to end it by; only the worker reads or writes it


class PromptScores(NamedTuple):
    """Of every token of a prompt but the first: its log-prob, and the likeliest tokens in its place."""

    logprob: list[float]
    top: list[Top]


class Steps(Protocol):
    """What the worker needs of a sampler: the engine has it, `HfSteps` lends it to transformers."""

    @property
    def busy(self) -> bool: ...
    def submit(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion: ...
    def abort(self, completion: Completion) -> None: ...
    def step(self) -> Any: ...


@dataclass(eq=False)
class _Row:
    """An answer in flight: where its pieces go and how much of it went there."""

    index: int
    completion: Completion
    pieces: asyncio.Queue[Piece | Exception]
    given: int = 0


class Worker:
    """`start` it in the event loop that will ask it; `stop` it before the process ends."""

    def __init__(self, sampler: Engine | HfSampler):
        self.model = sampler.model
        self.steps: Steps = HfSteps(sampler) if isinstance(sampler, HfSampler) else sampler
        self.jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.rows: list[_Row] = []
        self.stopping = False
        self.thread = threading.Thread(target=self._run, name="rung sampler")

    # -- asked from the event loop -------------------------------------------------------------------------

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread.start()

    def stop(self) -> None:
        """End the thread; a step in progress is not broken off."""
        self.jobs.put(self._stop)
        if self.thread.ident is not None:
            self.thread.join()

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    async def sample(self, asked: Sequence[tuple[Sequence[int], Sampling]]) -> AsyncIterator[Piece]:
        """Pieces of the answers as they come. Closing the iterator ends what is still in flight."""
        pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self.jobs.put(lambda: self._submit(asked, pieces))
        try:
            left = len(asked)
            while left:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                left -= bool(piece.finish)
                yield piece
        finally:
            self.jobs.put(lambda: self._end(pieces))

    def abort(self, completion: Completion) -> None:
        self.jobs.put(lambda: self.steps.abort(completion))

    def abort_all(self) -> None:
        """End every request in flight with `Stopped`."""
        self.jobs.put(lambda: self._fail(Stopped()))

    async def score(self, prompts: Sequence[Sequence[int]], top_logprobs: int) -> list[PromptScores]:
        """The model's own log-probs of prompts, a few at a time so that others are sampled in between."""
        found: list[PromptScores] = []
        for start, stop in pairwise([0, *_cuts([len(p) for p in prompts]), len(prompts)]):
            found += await self._score(prompts[start:stop], top_logprobs)
        return found

    async def _score(self, prompts: Sequence[Sequence[int]], top_logprobs: int) -> list[PromptScores]:
        future: asyncio.Future[list[PromptScores]] = self.loop.create_future()

        def settle(call: Callable[[Any], None], value: Any) -> None:
            if not future.done():  # nobody waits for it any more
                call(value)

        def job() -> None:
            if future.cancelled():
                return
            try:
                result = score_prompts(self.model, prompts, top_logprobs)
            except Exception as error:  # out of memory, most likely: this request's trouble
                logger.exception("scoring a prompt failed")
                self._tell(settle, future.set_exception, Failed(str(error)))
            else:
                self._tell(settle, future.set_result, result)

        self.jobs.put(job)
        return await future

    # -- in the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self.stopping:
            self._do_jobs()
            try:
                if self.steps.busy:
                    self.steps.step()
            except Exception as error:  # everything in flight was in that step
                logger.exception("a step of the sampler failed")
                self._fail(Failed(f"{type(error).__name__}: {error}"))
            self._report()

    def _do_jobs(self) -> None:
        """All that wait; where there is nothing else to do, wait for one."""
        while not self.stopping:
            try:
                job = self.jobs.get(block=not self.steps.busy)
            except queue.Empty:
                return
            try:
                job()
            except Exception as error:
                logger.exception("a job of the sampler failed")
                self._fail(Failed(f"{type(error).__name__}: {error}"))
            self._report()

    def _submit(
        self, asked: Sequence[tuple[Sequence[int], Sampling]], pieces: asyncio.Queue[Piece | Exception]
    ) -> None:
        try:
            for index, (prompt_ids, sampling) in enumerate(asked):
                completion = self.steps.submit(prompt_ids, sampling)
                self.rows.append(_Row(index, completion, pieces))
        except Exception as error:
            self._end(pieces)
            self._tell(pieces.put_nowait, error)

    def _end(self, pieces: asyncio.Queue[Piece | Exception]) -> None:
        """Nobody waits for these answers any more."""
        for row in [row for row in self.rows if row.pieces is pieces]:
            self.rows.remove(row)
            self.steps.abort(row.completion)

    def _fail(self, error: Exception) -> None:
        rows, self.rows = self.rows, []
        for row in rows:
            self.steps.abort(row.completion)
        for pieces in {id(row.pieces): row.pieces for row in rows}.values():
            self._tell(pieces.put_nowait, error)

    def _stop(self) -> None:
        self._fail(Stopped())
        self.stopping = True

    def _report(self) -> None:
        """Send on what was sampled since the last time."""
        for row in list(self.rows):
            completion, start, stop = row.completion, row.given, len(row.completion.token_ids)
            if stop == start and not completion.finish:
                continue
            row.given = stop
            if completion.finish:
                self.rows.remove(row)
            piece = Piece(
                row.index,
                completion.token_ids[start:stop],
                completion.policy_logprob[start:stop],
                completion.top[start:stop],
                completion.finish,
                completion,
            )
            self._tell(row.pieces.put_nowait, piece)

    def _tell(self, call: Callable[..., None], *values: Any) -> None:
        if not self.loop.is_closed():  # after a second Ctrl-C nobody listens
            self.loop.call_soon_threadsafe(call, *values)


class HfSteps:
    """Steps of transformers' sampler: what waits at a step becomes a batch of its own, batches take turns."""

    def __init__(self, sampler: HfSampler):
        self.sampler, self.waiting, self.batches = sampler, list[Completion](), list[_Batch]()

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.batches)

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        completion = Completion(tuple(prompt_ids), sampling)
        self.waiting.append(completion)
        return completion

    def abort(self, completion: Completion) -> None:
        """A row inside a batch is sampled once more before it leaves."""
        completion.finish = completion.finish or "abort"
        self.waiting = [row for row in self.waiting if not row.finish]
        self.batches = [batch for batch in self.batches if not all(row.finish for row in batch.rows)]

    def step(self) -> None:
        size = self.sampler.rows_at_once
        for start in range(0, len(self.waiting), size):
            self.batches.append(_Batch(self.sampler, self.waiting[start : start + size]))
        self.waiting = []
        for batch in self.batches:
            batch.step()
        self.batches = [batch for batch in self.batches if batch.rows]


SCORED_TOKENS = 4096  # of prompts in one forward


def _cuts(lengths: Sequence[int]) -> list[int]:
    """Where to cut a list of prompts so that each part has few tokens, or is one prompt."""
    cuts, total = [], 0
    for i, length in enumerate(lengths):
        if i and total + length > SCORED_TOKENS:
            cuts.append(i)
            total = 0
        total += length
    return cuts


@torch.no_grad()
def score_prompts(model: Any, prompts: Sequence[Sequence[int]], top_logprobs: int) -> list[PromptScores]:
    """One forward over all of them, each a document of its own."""
    examples = [Example(np.array(p, np.int32), np.arange(len(p)) > 0, "a prompt") for p in prompts]
    scored = score(model, collate(examples).to(model.head_weight.device), top_k=top_logprobs)
    sizes = [len(p) - 1 for p in prompts]
    logprobs = [part.tolist() for part in scored.logprob_M.split(sizes)]
    if scored.top_ids_Mk is None or scored.top_logprobs_Mk is None:
        return [PromptScores(logprob, []) for logprob in logprobs]
    ids, values = scored.top_ids_Mk.split(sizes), scored.top_logprobs_Mk.split(sizes)
    tops = [list(zip(i.tolist(), v.tolist(), strict=True)) for i, v in zip(ids, values, strict=True)]
    return [PromptScores(logprob, top) for logprob, top in zip(logprobs, tops, strict=True)]
