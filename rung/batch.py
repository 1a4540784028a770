"""The vocabulary every room speaks: Example, Pair, Feedback, Rollout, Batch, TokenScores, Loss.

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

Besides its ids a document may carry columns, one float32 number per token, for methods that know more of a
token than its name:

    advantage           credit of the token; positive makes it likelier
    sampler_logprob     log-prob the sampler drew the token with
    old_logprob         log-prob under the policy at the start of the round of updates
    reference_logprob   log-prob under the frozen reference
    weight              a factor on the token's loss; 0 leaves it out
    old_value           what a critic expected before the token, when the round began; old_cost likewise
    return_value        what it should have expected; return_cost likewise
    teacher_document    which document of the teacher's cache this is, the same for all its tokens
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One tokenised document: its ids, which of them are trained, and the row it came from."""

    token_ids: np.ndarray  # int32 [T]
    trained: np.ndarray  # bool  [T]
    origin: str  # "file.jsonl:12", for errors and inspection
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> float32 [T]

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
class Rollout:
    """One trajectory: the prompt, then every token that followed, and who wrote it.

    Text is a view; nothing is ever tokenised again. What an environment wrote (a tool's answer, a user's
    turn) has `by_model` False, zeros for log-probs, and never carries a gradient.
    """

    task: str  # names the task for ever: "chain_sum:17"
    group: int  # rollouts of one prompt in one round share it
    prompt_ids: np.ndarray  # int32 [P]
    token_ids: np.ndarray  # int32 [T], everything after the prompt
    by_model: np.ndarray  # bool [T]
    sampler_logprob: np.ndarray  # float32 [T], under the distribution the token was drawn from
    policy_logprob: np.ndarray  # float32 [T], under the model itself: temperature 1, nothing cut
    entropy: np.ndarray  # float32 [T], nats, of the model's own distribution there
    version: np.ndarray  # int32 [T], how many updates the weights that wrote it had seen
    finish: Literal["stop", "length", "abort"]
    digest: str = ""  # of the weights that wrote the last token
    text: str = ""  # the model's last turn, decoded for graders and readers

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class Batch:
    """A micro-batch: documents laid end to end. Example with two documents of 3 and 2 tokens:

        token_ids_N  a b c | x y
        positions_N  0 1 2 | 0 1
        trained_N    0 0 1 | 0 1
        lengths      (3, 2)

    The sites that predict are b (for c) and x (for y); nothing predicts across the bar.

    Documents that begin alike may share their beginning: `a b c d` and `a b e` as a trunk and two branches.

        token_ids_N  a b | c d | e
        positions_N  0 1 | 2 3 | 2
        lengths      (2, 2, 1)
        parents      (-1, 0, 0)

    A branch sees its whole parent and itself, so each is scored as if it stood alone, and b predicts both c
    and e. `pairs` names the documents of each (preferred, other) pair.

    `left_out` are the trained tokens, by weight, and the number of documents that belong to this step and are not
    laid down, because their loss and its gradient are known to be 0. They are in no sum and in every count.
    """

    token_ids_N: Tensor
    positions_N: Tensor
    trained_N: Tensor
    lengths: tuple[int, ...]
    origins: tuple[str, ...]
    parents: tuple[int, ...] = ()  # () means that no document continues another
    pairs: tuple[tuple[int, int], ...] = ()
    labels: tuple[bool, ...] = ()  # of judged answers: whether the first of each pair is a good one
    columns: Mapping[str, Tensor] = field(default_factory=dict)  # name -> float32 [N]
    left_out: tuple[float, int] = (0.0, 0)

    def __len__(self) -> int:
        return len(self.lengths)

    def column(self, name: str) -> Tensor:
        """A column at the trained tokens, `[M]`, in the order of TokenScores."""
        if name not in self.columns:
            raise KeyError(
                f"this batch has no column {name!r}, which the method reads; its source gives {sorted(self.columns)}"
            )
        return self.columns[name][prediction_sites(self)[1]]

    def to(self, device) -> Batch:
        return replace(
            self,
            token_ids_N=self.token_ids_N.to(device),
            positions_N=self.positions_N.to(device),
            trained_N=self.trained_N.to(device),
            columns={name: column.to(device) for name, column in self.columns.items()},
        )


def collate(examples: Sequence[Example], groups: Sequence[int] | None = None) -> Batch:
    """Lay documents end to end. The first token of a document has no predecessor and is never a target.

    `groups` are sizes of runs of consecutive examples whose common untrained beginning is laid down once, as
    a trunk they branch from: the same scores for less work. `collate([a, b, c], [2, 1])` shares what a and b
    have in common. Documents keep their order; a trunk comes just before its branches.
    """
    import numpy as np
    import torch

    pieces: list[tuple[Example, int, int, int]] = []  # example, from, to, index of the piece it continues
    members = iter(examples)
    for size in groups if groups is not None else [1] * len(examples):
        group = [next(members) for _ in range(size)]
        shared = _common_prefix(group) if size > 1 else 0
        trunk = len(pieces) if shared else -1
        if shared:
            pieces.append((group[0], 0, shared, -1))
        pieces += [(example, shared, len(example), trunk) for example in group]
    if next(members, None) is not None:
        raise ValueError(f"groups {groups} name fewer documents than the {len(examples)} given")

    def joined(column: Callable[[Example], np.ndarray]) -> np.ndarray:
        return np.concatenate([column(example)[start:stop] for example, start, stop, _ in pieces])

    names = sorted({name for example in examples for name in example.columns})
    return Batch(
        token_ids_N=torch.from_numpy(joined(lambda e: e.token_ids).astype(np.int64)),
        positions_N=torch.cat([torch.arange(start, stop) for _, start, stop, _ in pieces]),
        trained_N=torch.from_numpy(joined(lambda e: e.trained & (np.arange(len(e)) > 0)).astype(bool)),
        lengths=tuple(stop - start for _, start, stop, _ in pieces),
        origins=tuple(example.origin for example, *_ in pieces),
        parents=tuple(parent for *_, parent in pieces) if any(p >= 0 for *_, p in pieces) else (),
        columns={n: torch.from_numpy(joined(partial(_column, n)).astype(np.float32)) for n in names},
    )


def collate_pairs(pairs: Sequence[Pair], labels: Sequence[bool] = ()) -> Batch:
    """Each pair as a trunk, the prompt, with both answers as its branches: the prompt is computed once."""
    both = [example for pair in pairs for example in (pair.chosen, pair.rejected)]
    batch = collate(both, [2] * len(pairs))
    trunks = set(batch.parents)
    answers = iter([document for document in range(len(batch)) if document not in trunks])
    return replace(batch, pairs=tuple(zip(answers, answers, strict=True)), labels=tuple(labels))


def pair_tokens(pair: Pair) -> int:
    """Tokens a pair takes in `collate_pairs`."""
    both = (pair.chosen, pair.rejected)
    return len(both[0]) + len(both[1]) - _common_prefix(both)


def _column(name: str, example: Example) -> np.ndarray:
    return example.columns[name]


def _common_prefix(group: Sequence[Example]) -> int:
    """How many leading tokens all have in common, none of them trained and none the last of a document."""
    import numpy as np

    most = min(len(example) for example in group) - 1
    same = np.ones(max(most, 0), dtype=bool)
    for example in group:
        same &= (example.token_ids[:most] == group[0].token_ids[:most]) & ~example.trained[:most]
    return int(most if same.all() else same.argmin()) if most > 0 else 0


def prediction_sites(batch: Batch) -> tuple[Tensor, Tensor]:
    """The one token shift: `(sites_M, tokens_M)`, the hidden state at `sites_M[i]` predicts `tokens_M[i]`.

    Token t of a document is predicted at t - 1; the first of a branch at the last token of its trunk. A
    document's first token has position 0 and no site, so a boundary is never crossed whatever the mask says.
    """
    tokens_M = (batch.trained_N & (batch.positions_N > 0)).nonzero().squeeze(1)
    if not batch.parents:
        return tokens_M - 1, tokens_M
    import torch

    before_N = torch.arange(len(batch.token_ids_N), device=tokens_M.device) - 1
    starts = [0, *accumulate(batch.lengths)]
    for index, parent in enumerate(batch.parents):
        if parent >= 0:
            before_N[starts[index]] = starts[parent + 1] - 1
    return before_N[tokens_M], tokens_M


@dataclass(frozen=True)
class TokenScores:
    """What the policy says of the trained tokens of a batch, in order. Unasked parts are None."""

    logprob_M: Tensor  # float32 log p(token | its document so far)
    document_M: Tensor  # int64 index of the document each trained token belongs to
    entropy_M: Tensor | None = None  # float32, nats
    top_logprobs_Mk: Tensor | None = None
    top_ids_Mk: Tensor | None = None
    divergence_M: Tensor | None = None  # float32, nats, from the teacher's next-token distribution
    auxiliary: dict[str, Tensor] = field(default_factory=dict)  # router losses of a mixture of experts
    values: dict[str, Tensor] = field(default_factory=dict)  # critic's name -> float32 [M], before the token


@dataclass(frozen=True)
class ScalarScores:
    """What a reward model says of a batch: one number for each token and, at its last, for each document."""

    value_N: Tensor  # float32, of every token given its document so far
    score_B: Tensor  # float32, the value at the last token of each document

    @property
    def logprob_M(self) -> Tensor:
        """What the loop looks at to name the rows of a loss that is not finite: here the scores."""
        return self.score_B

    @property
    def document_M(self) -> Tensor:
        import torch

        return torch.arange(len(self.score_B), device=self.score_B.device)


@dataclass(frozen=True)
class Loss:
    """A sum and the named count that divides it, once, over the whole optimizer step and all ranks.

    `metrics` maps a name to its own (sum, count), added up in the same way; `maxima` a name to a number of which
    the largest is logged. `couples` names what ties
    documents of a micro-batch together, for a method whose gradient therefore depends on its size.
    """

    sum: Tensor
    count: float
    count_name: str  # "tokens", "sequences", "pairs"
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    couples: str = ""
    maxima: dict[str, float] = field(default_factory=dict)
