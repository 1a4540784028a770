"""A teacher in a process of its own: its memory is gone when it has answered, and a crash of it is not ours."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection

import torch

from rung.batch import Example
from rung.errors import RunStopped
from rung.kernels.linear_divergence import TopK
from rung.sources.teacher import Asked


def in_process(start: Callable[[], Asked]) -> Asked:
    """`start` makes the teacher in the new process, so it must be picklable: a module's function or a partial."""

    def asked(examples: Sequence[Example]) -> Iterator[TopK]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, start), daemon=True)
        process.start()
        theirs.close()
        try:
            ours.send(list(examples))
            for _ in examples:
                answer = ours.recv()
                if isinstance(answer, BaseException):
                    raise answer
                yield TopK(*map(torch.from_numpy, answer))
        except (EOFError, ConnectionError) as error:
            process.join()
            raise RunStopped(
                f"The teacher's process ended with exit code {process.exitcode} before it had scored all documents. "
                "Nothing of it was kept. With -9 it ran out of memory: write --micro-tokens with a smaller number.",
                1,
            ) from error
        finally:
            ours.close()
            process.terminate()
            process.join()

    return asked


def _work(channel: Connection, start: Callable[[], Asked]) -> None:
    """What fails over there is raised over here."""
    try:
        examples = channel.recv()
        for answer in start()(examples):
            # As arrays: tensors would go through shared memory that ends with this process.
            channel.send([part.numpy() for part in (answer.ids_Nk, answer.logprobs_Nk, answer.tail_N)])
    except BrokenPipeError:  # nobody listens any more
        return
    except Exception as error:
        channel.send(error)
