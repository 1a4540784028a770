"""Sampling with a key-value cache: prefill all prompts in one packed forward, then a token per row at a time.

The cache is an `attend` function, so the decoder that trains is the decoder that samples. Rows that have
stopped are dropped once half the batch has, which keeps late, long answers from paying for early ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.errors import UserError
from rung.kernels.attention import masked_attention, packed_attention
from rung.models.decoder import Decoder, Documents
from rung.models.fallback import Model, TransformersDecoder


@dataclass(frozen=True)
class Sampling:
    max_tokens: int = 256
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # smallest set of tokens with at least this mass
    stop_ids: tuple[int, ...] = ()
    seed: int = 0


class Cache:
    """Keys and values of B rows, `[B, K, T, d]` a layer, and how long each row is."""

    def __init__(self, model: Decoder, rows: int, capacity: int):
        c, weight = model.config, model.head_weight
        shape = (c.layers, rows, c.kv_heads, capacity, c.head_width)
        self.keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.zeros_like(self.keys)
        self.lengths_B = torch.zeros(rows, dtype=torch.long, device=weight.device)

    def prefill(self, lengths: tuple[int, ...]):
        """Attend inside each prompt and remember what was seen. Prompt i fills row i."""

        def attend(layer, q_NHd, k_NKd, v_NKd, *, scale, window, softcap):
            for row, (k, v) in enumerate(zip(k_NKd.split(lengths), v_NKd.split(lengths), strict=True)):
                self.keys[layer, row, :, : len(k)] = k.transpose(0, 1)
                self.values[layer, row, :, : len(v)] = v.transpose(0, 1)
            return packed_attention(q_NHd, k_NKd, v_NKd, lengths, scale=scale, window=window, softcap=softcap)

        return attend

    def extend(self):
        """Attend one new token a row to its whole row. Heads that share a key-value head are its queries."""
        rows = torch.arange(len(self.lengths_B), device=self.lengths_B.device)
        longest = int(self.lengths_B.max()) + 1
        ages_BT = self.lengths_B[:, None] - torch.arange(longest, device=rows.device)

        def attend(layer, q_BHd, k_BKd, v_BKd, *, scale, window, softcap):
            self.keys[layer, rows, :, self.lengths_B] = k_BKd
            self.values[layer, rows, :, self.lengths_B] = v_BKd
            k, v = self.keys[layer, :, :, :longest], self.values[layer, :, :, :longest]
            seen = (ages_BT >= 0) if window is None else (ages_BT >= 0) & (ages_BT < window)
            q = q_BHd.unflatten(1, (k.shape[1], -1))
            mask = seen[:, None, None, :]
            if softcap is None:
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).flatten(1, 2)
            return masked_attention(q, k, v, mask, scale, softcap).flatten(1, 2)

        return attend

    def keep(self, rows: Tensor) -> None:
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.lengths_B = self.lengths_B[rows]


def choose(logits_BV: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """One token a row from softmax(logits / temperature) cut to the top-p set, or the largest when greedy."""
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    probabilities = (logits_BV.float() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, ids = probabilities.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= sampling.top_p, 0)
        return ids.gather(1, torch.multinomial(ordered, 1, generator=generator)).squeeze(1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def generate(model: Model, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
    """The answer's token ids for each prompt, a stop id included where one ended it."""
    answers: list[list[int]] = [[] for _ in prompts]
    for row, token in _tokens(model, prompts, sampling):
        answers[row].append(token)
    return answers


def stream(model: Model, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """The answer's tokens as they come."""
    for _, token in _tokens(model, [prompt], sampling):
        yield token


@torch.no_grad()
def _tokens(model: Model, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[tuple[int, int]]:
    """`(row, token)` in the order of sampling. The model samples without dropout and is left as it was."""
    check(model, prompts, sampling)
    if not prompts:
        return
    training = model.training
    model.eval()
    try:
        yield from _sample(model, prompts, sampling)
    finally:
        model.train(training)


def _sample(model: Model, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[tuple[int, int]]:
    device = model.head_weight.device
    generator = torch.Generator(device).manual_seed(sampling.seed)
    forward: _Cached | _Whole
    forward = _Cached(model, prompts, sampling) if isinstance(model, Decoder) else _Whole(model, prompts)
    alive = list(range(len(prompts)))
    logits_BV = forward.first()
    for _ in range(sampling.max_tokens):
        chosen = choose(logits_BV, sampling, generator).tolist()
        yield from zip(alive, chosen, strict=True)
        going = [i for i, token in enumerate(chosen) if token not in sampling.stop_ids]
        if not going:
            return
        alive = [alive[i] for i in going]
        logits_BV = forward.next([chosen[i] for i in going], going)


def check(model: Model, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
    """Refuse what cannot be sampled before anything is."""
    if sampling.temperature < 0 or not 0 < sampling.top_p <= 1 or sampling.max_tokens < 1:
        raise UserError(
            f"Cannot sample {sampling.max_tokens} tokens at temperature {sampling.temperature} with top-p "
            f"{sampling.top_p}. Write at least 1 token, a temperature of 0 (greedy) or more, 0 < top-p <= 1."
        )
    context, vocabulary = model.config.context, model.config.vocabulary
    for number, prompt in enumerate(prompts, 1):
        which = f"Prompt {number} of {len(prompts)}"
        if not prompt:
            raise UserError(f"{which} is empty: there is no token to continue from. Give it at least one.")
        if len(prompt) + sampling.max_tokens > context:
            raise UserError(
                f"{which} has {len(prompt)} tokens; with {sampling.max_tokens} new ones that exceeds the "
                f"model's context of {context}. Shorten it or ask for fewer new tokens "
                f"(at most {max(context - len(prompt), 0)})."
            )
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise UserError(
                f"{which} has token ids from {min(prompt)} to {max(prompt)}, but the model knows 0 to "
                f"{vocabulary - 1}. Encode it with the model's own tokenizer."
            )


class _Cached:
    """Logits of the next token of each living row, from a cache. Stopped rows stay, unread, up to half."""

    def __init__(self, model: Decoder, prompts: Sequence[Sequence[int]], sampling: Sampling):
        self.model, self.prompts = model, prompts
        self.cache = Cache(model, len(prompts), max(len(p) for p in prompts) + sampling.max_tokens)
        self.rows = list(range(len(prompts)))  # cache row of each living row

    def first(self) -> Tensor:
        device, lengths = self.model.head_weight.device, tuple(len(p) for p in self.prompts)
        ids_N = torch.tensor([token for prompt in self.prompts for token in prompt], device=device)
        positions_N = torch.cat([torch.arange(n, device=device) for n in lengths])
        states = self.model(ids_N, positions_N, self.cache.prefill(lengths)).states_ND
        self.cache.lengths_B += torch.tensor(lengths, device=device)
        last_B = torch.tensor(lengths, device=device).cumsum(0) - 1
        return self.model.logits(states[last_B])

    def next(self, tokens: list[int], going: list[int]) -> Tensor:
        device = self.model.head_weight.device
        self.rows = [self.rows[i] for i in going]
        if 2 * len(self.rows) <= len(self.cache.lengths_B):
            self.cache.keep(torch.tensor(self.rows, device=device))
            self.rows = list(range(len(self.rows)))
        rows = torch.tensor(self.rows, device=device)
        ids_B = torch.zeros(len(self.cache.lengths_B), dtype=torch.long, device=device)
        ids_B[rows] = torch.tensor(tokens, device=device)
        states = self.model(ids_B, self.cache.lengths_B, self.cache.extend()).states_ND
        self.cache.lengths_B += 1  # stopped rows too: none outgrows the capacity, which allows for all steps
        return self.model.logits(states[rows])


class _Whole:
    """The same for a model without our cache: read every row from its start, each time."""

    def __init__(self, model: TransformersDecoder, prompts: Sequence[Sequence[int]]):
        self.model, self.texts = model, [list(p) for p in prompts]

    def first(self) -> Tensor:
        device, lengths = self.model.head_weight.device, tuple(len(t) for t in self.texts)
        ids_N = torch.tensor([token for text in self.texts for token in text], device=device)
        positions_N = torch.cat([torch.arange(n, device=device) for n in lengths])
        states = self.model(ids_N, positions_N, Documents(lengths)).states_ND
        return self.model.logits(states[torch.tensor(lengths, device=device).cumsum(0) - 1])

    def next(self, tokens: list[int], going: list[int]) -> Tensor:
        self.texts = [[*self.texts[i], token] for i, token in zip(going, tokens, strict=True)]
        return self.first()
