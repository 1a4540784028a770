"""A teacher behind an OpenAI-compatible server: what it says of given tokens, by `echo` of /completions.

A document goes out as token ids with no token to add, and comes back with a log-prob for each token and, when asked,
the likeliest alternatives by name. Names are turned into ids where a name means one token only; whatever
cannot be told apart, or was not named, is part of the tail, which is right, only coarser.

What the server says is believed after two checks, made on a first document before any training: that log-probs come
at all, and that the ids stand for the same tokens there as here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rung.batch import Example
from rung.data.tokens import token_texts
from rung.errors import RunStopped, UserError
from rung.kernels.linear_divergence import TopK

MOST = 20  # alternatives that servers give
LEAST_TAIL = math.log(2**-24)  # 1 minus float32 log-probs says nothing below
Ask = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


class EndpointTeacher:
    """`ask(path, content)` puts one request; `model` is the server's name for the teacher."""

    def __init__(self, ask: Ask, model: str, tokenizer: Any, where: str):
        self.ask, self.model, self.where = ask, model, where
        ids = range(len(tokenizer))
        self.names = token_texts(tokenizer, ids)
        often = Counter(self.names)
        self.id_of = {
            name: id for id, name in enumerate(self.names) if often[name] == 1 and "\ufffd" not in name
        }

    def check(self, example: Example) -> None:
        """Refuse a server that keeps its log-probs to itself or reads other tokens."""
        said = self._said(example.token_ids.tolist(), 1)
        theirs = [str(name) for name in said["tokens"]]
        for id, name in zip(example.token_ids.tolist(), theirs, strict=True):
            ours = self.names[id]
            if ours in self.id_of and name != ours and name != f"token_id:{id}":
                raise UserError(
                    f"{self.where} does not read the student's tokens: id {id} is {ours!r} here and {name!r} there. "
                    "Serve a teacher with the student's tokenizer, or learn from the text it writes."
                )

    def logprobs(self, token_ids: Sequence[int]) -> np.ndarray:
        """float32 [T - 1], of every token but the first given those before it."""
        return np.array(self._said(token_ids, 1)["token_logprobs"][1:], np.float32)

    def top_k(self, k: int) -> Callable[[Sequence[Example]], Iterator[TopK]]:
        """The k likeliest tokens at every trained token, and the token itself, which servers name too."""

        def asked(examples: Sequence[Example]) -> Iterator[TopK]:
            for example in examples:
                ids = example.token_ids.tolist()
                said = self._said(ids, k)
                places = (np.flatnonzero(example.trained[1:]) + 1).tolist()
                tops = [
                    self._known(said["top_logprobs"][t]) | {ids[t]: said["token_logprobs"][t]} for t in places
                ]
                yield kept(tops, k + 1)

        return asked

    def _known(self, top: Mapping[str, float]) -> dict[int, float]:
        """By id; without names that could mean several tokens."""
        found = {}
        for name, value in top.items():
            number = name.removeprefix("token_id:")
            id = int(number) if number != name and number.isdigit() else self.id_of.get(name)
            if id is not None:
                found[id] = value
        return found

    def _said(self, token_ids: Sequence[int], k: int) -> Mapping[str, Any]:
        """The `logprobs` of one echoed document, complete, or an error that says what is missing."""
        ids = list(token_ids)
        asked = {"model": self.model, "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": k}
        choices = self.ask("/completions", asked).get("choices") or [{}]
        said = choices[0].get("logprobs")
        if not isinstance(said, Mapping):
            raise self._lost("its answer has no logprobs at all")
        for part in ("tokens", "token_logprobs", "top_logprobs"):
            values = said.get(part)
            if not isinstance(values, list) or len(values) != len(ids):
                got = f"{len(values)}" if isinstance(values, list) else "none"
                raise self._lost(f"{got} {part} for {len(ids)} tokens")
        for place in range(1, len(ids)):
            value, top = said["token_logprobs"][place], said["top_logprobs"][place]
            if not isinstance(value, int | float) or not value <= 0.001 or not top:
                raise self._lost(f"token {place} of {len(ids)} has log-prob {value} and alternatives {top}")
        return said

    def _lost(self, what: str) -> RunStopped:
        return RunStopped(
            f"{self.where} does not give the log-probs it was asked for: {what}. Nothing of it was kept or trained on. "
            "The server must answer /completions with echo and logprobs, as `rung serve` and vLLM do; a chat-only "
            "service cannot be a per-token teacher, but its answers can be trained on with `rung sft`.",
            1,
        )


def kept(tops: Sequence[Mapping[int, float]], width: int) -> TopK:
    """The likeliest `width` of each row, and what is left to 1."""
    ids = torch.full((len(tops), width), -1)
    logprobs = torch.full((len(tops), width), -math.inf)
    for row, top in enumerate(tops):
        for place, (id, value) in enumerate(sorted(top.items(), key=lambda pair: -pair[1])[:width]):
            ids[row, place], logprobs[row, place] = id, value
    rest = torch.log1p(-logprobs.double().exp().sum(1).clamp(max=1.0))
    return TopK(ids, logprobs, rest.clamp(min=LEAST_TAIL).float())
