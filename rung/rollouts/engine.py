"""The engine: the decoder that trains, sampling many requests at once.

Each step is one forward over a flat axis of tokens: the newest token of every row being sampled, and the
prompts of the rows that join. A row that ends makes room for a waiting one at once (continuous batching).
Samples of one prompt share its forward, and a prompt that begins like something the cache still holds starts
from there. The weights are the model's own, not a copy; `refresh` says that they changed: what was cached is
forgotten, and rows in flight read their tokens again and go on under the new weights, each token knowing
which version wrote it.

In batch-invariant mode (`batch_invariant=True`) a request's tokens and log-probs do not depend, to the bit,
on what is sampled beside it, and the log-probs are exactly those the trainer computes with the same weights.
Without it they may differ in the last bits, which at a close call changes a token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rung.errors import UserError
from rung.kernels.invariant import pad_rows, rows_are_invariant
from rung.kernels.linear import pack, pack_layers, unpack_layers
from rung.kernels.linear_logprob import linear_logprob
from rung.models.decoder import Decoder
from rung.rollouts.cache import Cache, Segment
from rung.rollouts.draw import Dials, Drawn, draw
from rung.rollouts.graphs import DecodeGraphs, can_record
from rung.rollouts.pages import PagedCache
from rung.rollouts.record import record
from rung.rollouts.request import Completion, Sampling, check


class Engine:
    """Samples from `model`. `slots` rows at once, `prefill_tokens` of new prompts in one step at most.

    `tokenizer` is needed for stop strings only. `paged` keeps keys and values in pages instead of a stretch for each row:
    what a GPU wants, and the default there; its steps are recorded as CUDA graphs. Not for several threads at once.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        slots: int = 64,
        prefill_tokens: int = 2048,
        batch_invariant: bool = False,
        paged: bool | None = None,
        tokenizer: Any = None,
        version: int = 0,
        digest: str = "",
    ):
        self.model, self.slots, self.prefill_tokens = model, slots, prefill_tokens
        self.batch_invariant, self.tokenizer = batch_invariant, tokenizer
        self.version, self.digest = version, digest
        self.waiting: deque[Completion] = deque()
        self.rows: list[Completion] = []  # row i is in slot i
        cuda = model.head_weight.is_cuda
        self.paged = cuda and not batch_invariant if paged is None else paged
        self.record = self.paged and cuda and can_record(model)
        self._empty_cache()
        self._packed = False
        self._dials: Dials | None = None
        if batch_invariant:
            _must_be_invariant(model, paged=self.paged)

    # -- asking --------------------------------------------------------------------------------------------

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, key: Any = None) -> Completion:
        """Queue a prompt; the completion that comes back grows with the steps until `finish` says why it ended."""
        check(
            [prompt_ids], sampling, context=self.model.config.context, vocabulary=self.model.config.vocabulary
        )
        if sampling.stop_strings and self.tokenizer is None:
            raise UserError("stop_strings need the engine's tokenizer: Engine(model, tokenizer=...)")
        completion = Completion(tuple(map(int, prompt_ids)), sampling, key)
        self.waiting.append(completion)
        return completion

    def abort(self, completion: Completion) -> None:
        """End a completion where it stands; what was sampled stays in it."""
        if completion.finish:
            return
        completion.finish = "abort"
        if completion in self.waiting:
            self.waiting.remove(completion)
        else:
            self._release([completion])

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together, at most."""
        return self.model.config.context

    @property
    def busy(self) -> bool:
        return bool(self.rows or self.waiting)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int = 1
    ) -> list[list[Completion]]:
        """n answers to each prompt. Sample j of prompt i has its own dice, whatever else is asked."""
        check(prompts, sampling, context=self.model.config.context, vocabulary=self.model.config.vocabulary)
        answers = [
            [self.submit(prompt, replace(sampling, seed=sample_seed(sampling.seed, i, j))) for j in range(n)]
            for i, prompt in enumerate(prompts)
        ]
        try:
            self.run()
        finally:  # after an interruption nobody waits for them
            for completion in chain.from_iterable(answers):
                self.abort(completion)
        return answers

    def stream(self, prompt_ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """The tokens of one answer as they come."""
        completion = self.submit(prompt_ids, sampling)
        try:
            given = 0
            while not completion.finish or given < len(completion.token_ids):
                if given == len(completion.token_ids):
                    self.step()
                    continue
                yield completion.token_ids[given]
                given += 1
        finally:
            self.abort(completion)

    def run(self) -> None:
        """Step until nothing waits and nothing is being sampled."""
        while self.busy:
            self.step()

    # -- weights -------------------------------------------------------------------------------------------

    def refresh(self, version: int, digest: str = "") -> None:
        """The model's weights changed. Rows in flight go on under the new ones, from their tokens so far."""
        self.version, self.digest = version, digest
        self.waiting.extendleft(reversed(self.rows))
        self.rows, self._dials = [], None
        self.sleep()

    def sleep(self) -> None:
        """Give back the memory of packed weights and, if nothing is being sampled, of keys and values."""
        if not self.rows:
            self._empty_cache()
        unpack_layers(self.model)
        self.model.packed_head = None
        self._packed = False

    def _empty_cache(self) -> None:
        self.graphs: DecodeGraphs | None = None
        if self.paged:
            self.cache: Cache | PagedCache = PagedCache(self.model, self.slots)
            if self.record:
                self.graphs = DecodeGraphs(self.model, self.cache)
        else:
            self.cache = Cache(self.model, self.slots)

    def _wake(self) -> None:
        if self._packed or self.batch_invariant:
            return
        pack_layers(self.model)
        self.model.packed_head = pack(self.model.head_weight)
        self._packed = True

    # -- one step ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self) -> list[Completion]:
        """One token for every row, after as many waiting rows have joined as fit. Returns those that ended."""
        if not self.busy:
            return []
        training, invariant = self._set_training(False), self.model.batch_invariant
        self.model.batch_invariant = self.batch_invariant
        self._wake()
        whole = False
        try:
            states_BD = self._forward()
            drawn = self._choose(states_BD)
            ended = record(
                self.rows, drawn, version=self.version, digest=self.digest, tokenizer=self.tokenizer
            )
            self._release(ended)
            whole = True
        finally:
            if not whole:  # Ctrl-C, no memory: rows that joined may have no keys and values yet
                self.rows = [row for row in self.rows if not row.finish]
                self.refresh(self.version, self.digest)
            self._set_training(training)
            self.model.batch_invariant = invariant
        return ended

    def _set_training(self, training: bool) -> bool:
        """What it was before. `nn.Module.train` would do the same with checks at every module, at every step."""
        before = self.model.training
        if before != training:
            for module in self.model.modules():
                object.__setattr__(module, "training", training)
        return before

    def _forward(self) -> Tensor:
        """The last hidden state of every row, those that joined included."""
        decoding = len(self.rows)
        fresh, leaders = self._admit()
        lengths = [len(row.prompt_ids) + len(row.token_ids) for row in self.rows]
        self.cache.fit(max(lengths))
        tokens = [_last_token(row) for row in self.rows[:decoding]]
        positions = [length - 1 for length in lengths[:decoding]]
        if self.graphs and not fresh:
            return self.graphs.step(tokens, positions)
        for segment in fresh:
            tokens += _tokens(self.rows[segment.slot])[segment.start : segment.stop]
            positions += range(segment.start, segment.stop)
        attend = self.cache.attend(positions[:decoding], fresh, batch_invariant=self.batch_invariant)
        device = self.model.head_weight.device
        hidden = self.model(
            torch.tensor(tokens, device=device), torch.tensor(positions, device=device), attend
        )
        last, place = list(range(decoding)), decoding
        ends: dict[int, int] = {}
        for segment in fresh:
            place += segment.stop - segment.start
            ends[segment.slot] = place - 1
            self.cache.held[segment.slot] = np.array(_tokens(self.rows[segment.slot]), np.int32)
        for slot in range(decoding, len(self.rows)):
            leader = leaders.get(slot, slot)
            last.append(ends[leader])
            if leader != slot:
                self.cache.copy(leader, slot, lengths[slot])
        return hidden.states_ND[torch.tensor(last, device=device)]

    def _admit(self) -> tuple[list[Segment], dict[int, int]]:
        """Rows that join: what of each is computed, and which of them only copy another that joins."""
        fresh: list[Segment] = []
        leaders: dict[int, int] = {}
        first: dict[tuple[int, ...], int] = {}
        budget = self.prefill_tokens
        while self.waiting and len(self.rows) < self.slots:
            row = self.waiting[0]
            tokens = tuple(_tokens(row))
            slot = len(self.rows)
            if tokens in first:
                leaders[slot] = first[tokens]
            else:
                source, shared = self.cache.longest_match(np.array(tokens[:-1], np.int32))
                if fresh and len(tokens) - shared > budget:
                    break
                self.cache.copy(source, slot, shared)
                fresh.append(Segment(slot, shared, len(tokens)))
                budget -= len(tokens) - shared
                first[tokens] = slot
            self.waiting.popleft()
            self.rows.append(row)
            self._dials = None
        return fresh, leaders

    def _choose(self, states_BD: Tensor) -> Drawn:
        if self._dials is None:
            self._dials = Dials.of(self.rows, states_BD.device)
        padded_BD = pad_rows(states_BD) if self.batch_invariant else states_BD
        drawn = draw(self.model.logits(padded_BD)[: len(states_BD)], self._dials)
        if self.batch_invariant:
            drawn = self._as_the_trainer_says(padded_BD, drawn)
        return drawn

    def _as_the_trainer_says(self, padded_BD: Tensor, drawn: Drawn) -> Drawn:
        """The same log-probs by the trainer's own kernel, so that they agree to the bit."""
        assert self._dials is not None
        dials, rows = self._dials, len(drawn.tokens_B)

        def exact(temperature: float) -> Tensor:
            return linear_logprob(
                padded_BD, self.model.head_weight, pad_rows(drawn.tokens_B),
                softcap=self.model.config.logit_softcap, temperature=temperature,
            ).logprob_N[:rows]  # fmt: skip

        policy_B = exact(1.0)
        sampler_B = drawn.sampler_logprob_B.clone()
        for temperature in {row.sampling.temperature for row in dials.rows} - {0}:
            value_B = policy_B if temperature == 1 else exact(temperature)
            for i, row in enumerate(dials.rows):
                if row.sampling.temperature == temperature and not row.sampling.cuts:
                    sampler_B[i] = value_B[i]
        return drawn._replace(policy_logprob_B=policy_B, sampler_logprob_B=sampler_B)

    def _release(self, ended: list[Completion]) -> None:
        """Free the slots of rows that ended; the last row moves into each, so that no gap is left."""
        for row in ended:
            cache, last = self.cache, len(self.rows) - 1
            slot = next(i for i, other in enumerate(self.rows) if other is row)
            for i in (slot, last):  # the newest token has no keys and values yet
                cache.held[i] = np.array(_tokens(self.rows[i])[:-1], np.int32)
            cache.swap(slot, last, max(len(cache.held[slot]), len(cache.held[last])))
            self.rows[slot] = self.rows[last]
            self.rows.pop()
            self._dials = None


def sample_seed(seed: int, prompt: int, sample: int) -> int:
    """A seed of its own for each sample of each prompt."""
    return (seed * 1_000_003 + prompt) * 1_000_003 + sample


def _tokens(row: Completion) -> list[int]:
    return [*row.prompt_ids, *row.token_ids]


def _last_token(row: Completion) -> int:
    return row.token_ids[-1] if row.token_ids else row.prompt_ids[-1]


def _must_be_invariant(model: Decoder, *, paged: bool) -> None:
    if paged:
        raise UserError(
            "Pages are read in an order that depends on the batch. Leave out paged or batch_invariant."
        )
    if any(experts is not None for experts in model.config.experts):
        raise UserError(
            "A mixture of experts is not batch-invariant: how many tokens an expert sees depends on the batch. "
            "Sample from it without batch_invariant."
        )
    if not rows_are_invariant(model.head_weight):
        raise UserError(
            f"Matrix products in {model.head_weight.dtype} on {model.head_weight.device} depend on the number of rows "
            "on this machine, so batch_invariant cannot be kept. Try float32 on the CPU."
        )
