"""The vocabulary every room speaks: Example, Pair, Feedback, Batch, TokenScores, Loss.

Legend of shape suffixes. A tensor's name ends in its axes, so `trained_N` has one entry per token:

    N  tokens of a micro-batch, all documents laid end to end (there is no padding)
    M  the trained tokens among them
    B  documents (sequences) in a batch
    T  positions of one document or of a cache row
    D  hidden width        F  feed-forward width     V  vocabulary
    H  query heads         K  key-value heads        d  width of one head
    E  experts             k  top-k choices          L  layers

A mask is boolean and 1 means trained. `trained_N[t]` speaks of token t itself, as a target; the shift
between a token and the position that predicts it happens in one function, `prediction_sites`, and
nowhere else. Documents never see each other: `Batch.lengths` is the boundary every attention honours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One tokenised document: its ids, which of them are trained, and the row it came from."""

    token_ids: np.ndarray  # int32 [T]
    trained: np.ndarray  # bool  [T]
    origin: str  # "file.jsonl:12", for errors and inspection

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, the first preferred. A type, so that pairing by parity cannot be written."""

    chosen: Example
    rejected: Example


@dataclass(frozen=True)
class Feedback:
    """One answer with a thumb up (True) or down (False)."""

    example: Example
    label: bool


@dataclass(frozen=True)
class Batch:
    """A micro-batch: documents laid end to end. Example with two documents of 3 and 2 tokens:

        token_ids_N  a b c | x y
        positions_N  0 1 2 | 0 1
        trained_N    0 0 1 | 0 1
        lengths      (3, 2)

    The sites that predict are b (for c) and x (for y); nothing predicts across the bar.
    """

    token_ids_N: Tensor
    positions_N: Tensor
    trained_N: Tensor
    lengths: tuple[int, ...]
    origins: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device) -> Batch:
        return Batch(
            self.token_ids_N.to(device),
            self.positions_N.to(device),
            self.trained_N.to(device),
            self.lengths,
            self.origins,
        )


def collate(examples: Sequence[Example]) -> Batch:
    """Lay documents end to end. The first token of a document has no predecessor and is never a target."""
    import numpy as np
    import torch

    return Batch(
        token_ids_N=torch.from_numpy(np.concatenate([e.token_ids for e in examples]).astype(np.int64)),
        positions_N=torch.cat([torch.arange(len(e)) for e in examples]),
        trained_N=torch.from_numpy(
            np.concatenate([e.trained & (np.arange(len(e)) > 0) for e in examples]).astype(bool)
        ),
        lengths=tuple(len(e) for e in examples),
        origins=tuple(e.origin for e in examples),
    )


def prediction_sites(batch: Batch) -> tuple[Tensor, Tensor]:
    """The one token shift: `(sites_M, tokens_M)`, the hidden state at `sites_M[i]` predicts `tokens_M[i]`.

    Token t of a document is predicted at t - 1. A document's first token has position 0 and no site, so a
    boundary is never crossed whatever the mask says.
    """
    tokens_M = (batch.trained_N & (batch.positions_N > 0)).nonzero().squeeze(1)
    return tokens_M - 1, tokens_M


@dataclass(frozen=True)
class TokenScores:
    """What the policy says of the trained tokens of a batch, in order. Unasked parts are None."""

    logprob_M: Tensor  # float32 log p(token | its document so far)
    document_M: Tensor  # int64 index of the document each trained token belongs to
    entropy_M: Tensor | None = None  # float32, nats
    top_logprobs_Mk: Tensor | None = None
    top_ids_Mk: Tensor | None = None
    auxiliary: dict[str, Tensor] = field(default_factory=dict)  # router losses of a mixture of experts


@dataclass(frozen=True)
class Loss:
    """A sum and the named count that divides it, once, over the whole optimizer step and all ranks.

    `metrics` maps a name to its own (sum, count), added up in the same way. `couples` names what ties
    documents of a micro-batch together, for a method whose gradient therefore depends on its size.
    """

    sum: Tensor
    count: float
    count_name: str  # "tokens", "sequences", "pairs"
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    couples: str = ""
