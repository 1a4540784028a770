"""Sampling through transformers: for models the decoder does not have, and as a second opinion on those it has.

The model's own forward, its own cache, its own logits; only the choice of tokens is ours (draw.py), so that
all options mean the same everywhere. Rows are padded on the left; whether this model then still says of a
short row what it says of it alone is tried once, and where it does not (RWKV reads padding, and mixes rows up),
one row is sampled at a time. No row joins a batch that runs, and nothing is cached for later prompts: it is
slower than the engine, and as right.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rung.errors import UserError
from rung.models.decoder import Decoder
from rung.models.fallback import Model, TransformersDecoder
from rung.models.fingerprint import fingerprint
from rung.models.folder import read_config
from rung.models.hub import resolve
from rung.models.load import base_of
from rung.models.lora import load_adapter
from rung.rollouts.draw import Dials, draw
from rung.rollouts.engine import Engine, sample_seed
from rung.rollouts.record import record
from rung.rollouts.request import Completion, Sampling, check
from rung.rollouts.vllm import weights_of


def sampler_for(
    model: Model, *, slots: int = 64, tokenizer: Any = None, batch_invariant: bool = False
) -> Engine | HfSampler:
    """The engine for a decoder, transformers for any other model."""
    if isinstance(model, Decoder):
        return Engine(model, slots=slots, tokenizer=tokenizer, batch_invariant=batch_invariant)
    if batch_invariant:
        raise UserError(
            f"A {model.config.hf['model_type']} model runs through transformers, which promises no batch "
            "invariance. Sample from it without batch_invariant."
        )
    return HfSampler(model, slots=slots, tokenizer=tokenizer)


def open_with_transformers(
    name: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> TransformersDecoder:
    """What `load_model` opens, but run by transformers whatever its family."""
    path = resolve(str(name))
    if (path / "adapter_config.json").exists():
        model = open_with_transformers(base_of(path), dtype, device)
        load_adapter(model, path)
        return model
    return TransformersDecoder(path, read_config(path), dtype).to(device)


class HfSampler:
    """Samples from `model`, `slots` rows at once. `tokenizer` is needed for stop strings only."""

    def __init__(
        self,
        model: TransformersDecoder,
        *,
        slots: int = 64,
        tokenizer: Any = None,
        version: int = 0,
        digest: str = "",
    ):
        self.model, self.tokenizer = model, tokenizer
        self.version, self.digest = version, digest
        self.rows_at_once = slots if _batches_change_nothing(model) else 1
        self.waiting: deque[Completion] = deque()

    def refresh(self, version: int, digest: str = "") -> None:
        """The model's weights changed. Nothing is kept from one call to the next, so nothing is forgotten."""
        self.version, self.digest = version, digest

    def push(self, model: torch.nn.Module, version: int, digest: str = "") -> None:
        """Take over `model`'s weights as they are now, adapters added into what they correct; checked bit for bit.

        Nothing is copied where `model` is what is sampled from. `digest` is what completions carry.
        """
        if model is not self.model:
            tensors = weights_of(model, self.model.head_weight.dtype)
            self.model.inner.load_state_dict(tensors, strict=False)
            held = weights_of(self.model, self.model.head_weight.dtype)
            wrong = sorted(
                name
                for name in tensors.keys() | held.keys()
                if name not in tensors or name not in held or not torch.equal(tensors[name], held[name])
            )
            if wrong:
                raise UserError(
                    f"transformers holds other weights than were sent to it: {len(wrong)} differ, such as {wrong[0]}. "
                    "Sample with rung's own engine."
                )
        self.refresh(version, digest or fingerprint(model))

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Queue a prompt, as with the engine; `step` completes as many of those that wait as fit, to their ends."""
        self._check([prompt_ids], sampling)
        self.waiting.append(Completion(tuple(map(int, prompt_ids)), sampling))
        return self.waiting[-1]

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together, at most."""
        return self.model.config.context

    @property
    def busy(self) -> bool:
        return bool(self.waiting)

    def step(self) -> list[Completion]:
        ended = [self.waiting.popleft() for _ in range(min(self.rows_at_once, len(self.waiting)))]
        batch = _Batch(self, ended)
        while batch.rows:
            batch.step()
        return ended

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int = 1
    ) -> list[list[Completion]]:
        """n answers to each prompt, with the dice that the engine would throw for them."""
        self._check(prompts, sampling)
        answers = [
            [
                Completion(tuple(map(int, p)), replace(sampling, seed=sample_seed(sampling.seed, i, j)))
                for j in range(n)
            ]
            for i, p in enumerate(prompts)
        ]
        rows = list(chain.from_iterable(answers))
        for start in range(0, len(rows), self.rows_at_once):
            batch = _Batch(self, rows[start : start + self.rows_at_once])
            while batch.rows:
                batch.step()
        return answers

    def stream(self, prompt_ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """The tokens of one answer as they come."""
        self._check([prompt_ids], sampling)
        row = Completion(tuple(map(int, prompt_ids)), sampling)
        batch = _Batch(self, [row])
        while batch.rows:
            batch.step()
            yield row.token_ids[-1]

    def _check(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
        c = self.model.config
        check(prompts, sampling, context=c.context, vocabulary=c.vocabulary)
        if sampling.stop_strings and self.tokenizer is None:
            raise UserError("stop_strings need the sampler's tokenizer: HfSampler(model, tokenizer=...)")


class _Batch:
    """Rows that are sampled together, from the forward over their prompts until the last of them ends."""

    def __init__(self, sampler: HfSampler, rows: list[Completion]):
        self.sampler, self.rows = sampler, rows
        self.device = sampler.model.head_weight.device
        self.reader: _Reader | None = None

    @torch.no_grad()
    def step(self) -> None:
        """One token for every row. The model samples without dropout and is left as it was."""
        sampler, model = self.sampler, self.sampler.model
        training = model.training
        model.eval()
        try:
            logits_BV = self._read()
        finally:
            model.train(training)
        drawn = draw(logits_BV, Dials.of(self.rows, self.device))
        record(self.rows, drawn, version=sampler.version, digest=sampler.digest, tokenizer=sampler.tokenizer)
        going = [i for i, row in enumerate(self.rows) if not row.finish]
        if going and len(going) < len(self.rows):
            assert self.reader is not None
            self.reader.take(going)
        self.rows = [self.rows[i] for i in going]

    def _read(self) -> Tensor:
        """Logits of every row's next token; equal prompts are read once."""
        if self.reader is not None:
            newest = torch.tensor([[row.token_ids[-1]] for row in self.rows], device=self.device)
            return self.reader.read(newest)
        place = {prompt: i for i, prompt in enumerate(dict.fromkeys(row.prompt_ids for row in self.rows))}
        self.reader = _Reader(self.sampler.model.inner, list(place))
        logits_BV = self.reader.read()
        rows = [place[row.prompt_ids] for row in self.rows]
        self.reader.take(rows)
        return logits_BV[torch.tensor(rows, device=self.device)]


class _Reader:
    """A transformers model, its cache, and the arguments that transformers' own loop would carry along."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]):
        self.model = model
        width, accepted = max(map(len, prompts)), inspect.signature(model.forward).parameters
        self.ids_BT = torch.zeros(len(prompts), width, dtype=torch.long)
        mask_BT = torch.zeros_like(self.ids_BT)
        for row, prompt in enumerate(prompts):
            self.ids_BT[row, width - len(prompt) :] = torch.tensor(prompt)
            mask_BT[row, width - len(prompt) :] = 1
        self.ids_BT, mask_BT = self.ids_BT.to(model.device), mask_BT.to(model.device)
        self.carried: dict[str, Any] = {"attention_mask": mask_BT, "use_cache": True}
        if "position_ids" in accepted:
            self.carried["position_ids"] = (mask_BT.cumsum(-1) - 1).clamp_min(0)
        if "logits_to_keep" in accepted:
            self.carried["logits_to_keep"] = 1

    def read(self, newest_B1: Tensor | None = None) -> Tensor:
        """`[B, V]` after the prompts, or after one more token of every row."""
        first = newest_B1 is None
        if newest_B1 is not None:
            self.ids_BT = torch.cat([self.ids_BT, newest_B1], 1)
        inputs = self.model.prepare_inputs_for_generation(
            self.ids_BT, next_sequence_length=None if first else 1, is_first_iteration=first, **self.carried
        )
        out = self.model(**inputs, return_dict=True)
        self.carried = self.model._update_model_kwargs_for_generation(out, self.carried)
        return out.logits[:, -1]

    def take(self, rows: Sequence[int]) -> None:
        """Go on with these rows, some of them dropped or doubled."""
        rows_B = torch.tensor(rows, device=self.ids_BT.device)
        if len(rows) == len(self.ids_BT) and list(rows) == list(range(len(rows))):
            return
        self.ids_BT = self.ids_BT[rows_B]
        for name, value in self.carried.items():
            if isinstance(value, Tensor):
                self.carried[name] = value[rows_B]
            elif isinstance(value, list):  # RWKV's state
                self.carried[name] = [part[rows_B] for part in value]
            elif hasattr(value, "reorder_cache"):
                value.reorder_cache(rows_B)


@torch.no_grad()
def _batches_change_nothing(model: TransformersDecoder) -> bool:
    """Whether a short row beside a long one reads, and after one more token still reads, as it does alone."""
    training, vocabulary = model.training, model.config.vocabulary
    short, long = ([i * 7 % vocabulary for i in range(3, 3 + n)] for n in (3, 12))
    model.eval()
    try:
        alone, beside = _Reader(model.inner, [short]), _Reader(model.inner, [long, short])
        more = torch.tensor([[5 % vocabulary]], device=model.head_weight.device)
        pairs = [(alone.read(), beside.read()), (alone.read(more), beside.read(more.expand(2, 1)))]
    finally:
        model.train(training)
    tolerance = 1e-3 if model.head_weight.dtype == torch.float32 else 0.05
    return all(torch.allclose(a[0].float(), b[1].float(), rtol=tolerance, atol=tolerance) for a, b in pairs)
