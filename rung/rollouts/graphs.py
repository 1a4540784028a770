"""A decoding step as one launch: CUDA graphs of the decoder.

A small model's step on a GPU is hundreds of kernels that each take less time than their launch. A graph records them
once and launches them together. It is recorded for a number of rows and a width of the table of pages, both powers of
two; a step with fewer rows fills up with rows that write to a page of nobody. Numbers go in through tensors that stay
where they are, and the weights are read where the trainer changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rung.models.decoder import Decoder
from rung.rollouts.pages import SPARE, PagedCache, newest

Body = Callable[[], Tensor]
Capture = Callable[[Body], Body]


@dataclass(frozen=True)
class Step:
    """One recorded step: what it reads, and what runs it and returns the hidden states, `[rows, D]`."""

    tokens_B: Tensor
    positions_B: Tensor
    table_BM: Tensor
    replay: Body


class DecodeGraphs:
    """Decoding steps through `cache`, each shape recorded when it first comes."""

    def __init__(self, model: Decoder, cache: PagedCache, capture: Capture | None = None):
        self.model, self.cache = model, cache
        self.capture = capture or recorder()
        self.steps: dict[tuple[int, int], Step] = {}
        self.pages = 0  # of the pool that the steps were recorded with

    def step(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """The hidden states of one new token for each of the first slots. They hold until the next step."""
        count, cache = len(tokens), self.cache
        cache.make_writable(newest(positions))
        if len(cache.users) != self.pages:  # a pool that has grown lies elsewhere
            self.steps, self.pages = {}, len(cache.users)
        rows, width = _power_of_two(count), _power_of_two(max(map(len, cache.tables[:count])))
        step = self.steps.get((rows, width)) or self._empty(rows, width)
        for into_B, values in ((step.tokens_B, tokens), (step.positions_B, positions)):
            into_B.zero_()[:count] = torch.tensor(values)
        step.table_BM.fill_(SPARE)[:count] = cache.table_of(count, width)
        if (rows, width) not in self.steps:
            step = self.steps[rows, width] = replace(step, replay=self.capture(step.replay))
        return step.replay()[:count]

    def _empty(self, rows: int, width: int) -> Step:
        device = self.model.head_weight.device
        tokens_B, positions_B = (torch.zeros(rows, dtype=torch.long, device=device) for _ in range(2))
        table_BM = torch.zeros(rows, width, dtype=torch.int32, device=device)

        def replay() -> Tensor:
            attend = self.cache.decoding(table_BM, positions_B)
            return self.model(tokens_B, positions_B, attend).states_ND

        return Step(tokens_B, positions_B, table_BM, replay)


def can_record(model: Decoder) -> bool:
    """A mixture of experts asks the processor which expert has which tokens, so its step is no fixed list of kernels."""
    return all(experts is None for experts in model.config.experts)


def recorder() -> Capture:
    """Records into one pool of memory, since only one graph runs at a time."""
    pool = torch.cuda.graph_pool_handle()

    def capture(body: Body) -> Body:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            body()  # kernels are compiled and libraries set up before recording; it writes what the step will
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Only this thread's mistakes are errors: where sampling runs ahead, the trainer's thread takes memory meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            states_BD = body()

        def replay() -> Tensor:
            graph.replay()
            return states_BD

        return replay

    return capture


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
