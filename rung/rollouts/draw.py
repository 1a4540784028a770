"""From logits to tokens: cut the distribution as asked, draw from what is left, say how likely that was.

Drawing inverts the cumulative distribution at one uniform number a row. The number comes from a counter
(seed of the request, place of the token), not from a stream, so what a request draws depends on nothing
that stands beside it, and a run that is resumed draws again what it drew. The sum over the vocabulary is
taken in two levels, blocks and then one block, because a cumulative sum over a whole row would be read by
nobody but for one place of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rung.rollouts.request import Completion, Sampling

BLOCK = 256  # ids summed at once: near the square root of a vocabulary
CACHED = 2**19  # float32 scores a CPU works on at once
CANDIDATES = 1024  # how many of the likeliest ids a top-p set is looked for in before all are sorted


class Drawn(NamedTuple):
    tokens_B: Tensor
    sampler_logprob_B: Tensor  # float32, under the distribution drawn from; 0 when greedy
    policy_logprob_B: Tensor  # float32, under softmax(logits)
    entropy_B: Tensor | None  # of softmax(logits)
    top_ids_Bk: Tensor | None
    top_logprobs_Bk: Tensor | None


@dataclass(frozen=True)
class Dials:
    """The sampling parameters of a batch as columns. Parts that no row uses are None."""

    rows: Sequence[Completion]
    temperature_B1: Tensor
    greedy_B: Tensor
    top_k_B1: Tensor | None
    top_p_B1: Tensor | None
    min_p_B1: Tensor | None
    penalty_B1: Tensor | None
    entropy: bool
    top_logprobs: int
    hot: bool  # some row's temperature is neither 0 nor 1
    cold: bool  # some row is greedy
    edited: bool  # some row has its logits changed before the temperature

    @classmethod
    def of(cls, rows: Sequence[Completion], device: torch.device) -> Dials:
        asked: list[Sampling] = [row.sampling for row in rows]

        def column(name: str, off: float) -> Tensor | None:
            values = [getattr(s, name) for s in asked]
            used = any(value != off for value in values)
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None] if used else None

        temperature = torch.tensor([s.temperature for s in asked], dtype=torch.float32, device=device)
        greedy = temperature == 0
        return cls(
            rows=rows,
            temperature_B1=temperature.masked_fill(greedy, 1.0)[:, None],
            greedy_B=greedy,
            top_k_B1=column("top_k", 0),
            top_p_B1=column("top_p", 1.0),
            min_p_B1=column("min_p", 0.0),
            penalty_B1=column("repetition_penalty", 1.0),
            entropy=any(s.entropy for s in asked),
            top_logprobs=max(s.top_logprobs for s in asked),
            hot=any(s.temperature not in (0, 1) for s in asked),
            cold=any(s.temperature == 0 for s in asked),
            edited=any(s.repetition_penalty != 1 or s.logit_bias or s.min_tokens for s in asked),
        )

    def part(self, rows: slice) -> Dials:
        """Those of some of the rows."""
        columns: dict[str, Any] = {name: x[rows] for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, rows=self.rows[rows], **columns)

    @property
    def cuts(self) -> bool:
        return any(x is not None for x in (self.top_k_B1, self.top_p_B1, self.min_p_B1))


def draw(logits_BV: Tensor, dials: Dials) -> Drawn:
    """One token a row. `logits_BV` in any float type is read in float32 and left as it was.

    A CPU goes over some rows at a time, few enough to stay in its cache.
    """
    rows, vocabulary = logits_BV.shape
    at_once = max(CACHED // vocabulary, 1) if logits_BV.device.type == "cpu" else rows
    if rows <= at_once:
        return _draw(logits_BV, dials)
    parts = [slice(start, start + at_once) for start in range(0, rows, at_once)]
    drawn = [_draw(logits_BV[part], dials.part(part)) for part in parts]
    joined: list[Any] = [
        None if column[0] is None else torch.cat(column) for column in zip(*drawn, strict=True)
    ]
    return Drawn(*joined)


def _draw(logits_BV: Tensor, dials: Dials) -> Drawn:
    raw_BV = logits_BV.float()
    policy = _Softmax(raw_BV)
    drawn_from = policy
    if dials.edited or dials.hot or dials.cuts:
        scores_BV = _edited(raw_BV, dials) if dials.edited else raw_BV
        if dials.hot:
            scores_BV = scores_BV / dials.temperature_B1
        if dials.cuts:
            scores_BV = _cut(scores_BV, dials)
        drawn_from = _Softmax(scores_BV)
    tokens_B = drawn_from.invert(uniforms(dials.rows, raw_BV.device))
    sampler_logprob_B = drawn_from.logprob(tokens_B)
    if dials.cold:
        best_B = drawn_from.scores_BV.argmax(-1)
        tokens_B = torch.where(dials.greedy_B, best_B, tokens_B)
        sampler_logprob_B = sampler_logprob_B.masked_fill(dials.greedy_B, 0.0)
    top_logprobs_Bk = top_ids_Bk = None
    if dials.top_logprobs:
        top_scores_Bk, top_ids_Bk = raw_BV.topk(dials.top_logprobs)
        top_logprobs_Bk = top_scores_Bk - policy.normaliser_B[:, None]
    return Drawn(
        tokens_B,
        sampler_logprob_B,
        policy.logprob(tokens_B),
        policy.entropy() if dials.entropy else None,
        top_ids_Bk,
        top_logprobs_Bk,
    )


class _Softmax:
    """softmax(scores), kept as its unnormalised weights and their sums over blocks of ids."""

    def __init__(self, scores_BV: Tensor):
        self.scores_BV = scores_BV
        self.peak_B1 = scores_BV.amax(-1, keepdim=True)
        self.weights_BV = (scores_BV - self.peak_B1).exp_()
        vocabulary = scores_BV.shape[1]
        whole = vocabulary // BLOCK * BLOCK
        blocks = self.weights_BV[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1).double()
        rest = self.weights_BV[:, whole:].sum(-1, keepdim=True).double()
        self.blocks_Bn = torch.cat([blocks, rest], 1) if whole < vocabulary else blocks
        self.normaliser_B = self.peak_B1.squeeze(1) + self.blocks_Bn.sum(-1).log().float()

    def logprob(self, tokens_B: Tensor) -> Tensor:
        return self.scores_BV.gather(1, tokens_B[:, None]).squeeze(1) - self.normaliser_B

    def entropy(self) -> Tensor:
        """-sum p log p = log Z - sum p score; an id that was cut away has weight 0 and adds 0."""
        shifted_BV = (self.scores_BV - self.peak_B1).clamp_min_(-1e30)
        mean_B = torch.linalg.vecdot(self.weights_BV, shifted_BV) / self.blocks_Bn.sum(-1).float()
        return (self.normaliser_B - self.peak_B1.squeeze(1)) - mean_B

    def invert(self, uniform_B: Tensor) -> Tensor:
        """The id at which the cumulative distribution passes the uniform number. Never one of weight 0."""
        sums_Bn = self.blocks_Bn.cumsum(-1)
        # Rounded, a number just below 1 would point behind the last id.
        target_B1 = (uniform_B * sums_Bn[:, -1]).minimum(sums_Bn[:, -1] * (1 - 2.0**-52))[:, None]
        block_B1 = torch.searchsorted(sums_Bn, target_B1, right=True).clamp_max_(sums_Bn.shape[1] - 1)
        before_B1 = sums_Bn.gather(1, block_B1) - self.blocks_Bn.gather(1, block_B1)
        ids_Bb = block_B1 * BLOCK + torch.arange(BLOCK, device=uniform_B.device)
        vocabulary = self.weights_BV.shape[1]
        weights_Bb = self.weights_BV.gather(1, ids_Bb.clamp_max(vocabulary - 1)).double()
        inside_Bb = weights_Bb.masked_fill_(ids_Bb >= vocabulary, 0).cumsum(-1)
        # A block's float32 sum and its running float64 sum differ in the last bits: stay below the latter.
        # The id sought is the first whose running sum is above the target; one of weight 0 never is the first.
        ceiling_B1 = inside_Bb[:, -1:] * (1 - 2.0**-52)
        left_B1 = torch.minimum((target_B1 - before_B1).clamp_min_(0), ceiling_B1)
        place_B1 = torch.searchsorted(inside_Bb, left_B1, right=True)
        return ids_Bb.gather(1, place_B1.clamp_max_(BLOCK - 1)).squeeze(1)


def _edited(raw_BV: Tensor, dials: Dials) -> Tensor:
    """Repetition penalty, logit bias and minimum length, row by row: few rows ask for them."""
    scores_BV = raw_BV.clone()
    for index, row in enumerate(dials.rows):
        s = row.sampling
        if s.repetition_penalty != 1:
            seen = torch.tensor(sorted({*row.prompt_ids, *row.token_ids}), device=scores_BV.device)
            known = scores_BV[index, seen]
            scores_BV[index, seen] = torch.where(
                known > 0, known / s.repetition_penalty, known * s.repetition_penalty
            )
        for token, bias in s.logit_bias:
            scores_BV[index, token] += bias
        if len(row.token_ids) < s.min_tokens:
            known_ids = [token for token in s.stop_ids if 0 <= token < scores_BV.shape[1]]
            scores_BV[index, known_ids] = -torch.inf
    return scores_BV


def _cut(scores_BV: Tensor, dials: Dials) -> Tensor:
    """-inf for ids outside the top-k, then the top-p, then the min-p set. Ties with the last id stay in."""
    if dials.top_k_B1 is not None:
        vocabulary = scores_BV.shape[1]
        k_B1 = dials.top_k_B1.long()
        k_B1 = torch.where(k_B1 == 0, vocabulary, k_B1).clamp_max_(vocabulary)
        largest = int(k_B1[k_B1 < vocabulary].max()) if bool((k_B1 < vocabulary).any()) else 0
        if largest:
            best_Bk = scores_BV.topk(largest).values
            least_B1 = best_Bk.gather(1, k_B1.clamp_max(largest) - 1)
            scores_BV = scores_BV.masked_fill((scores_BV < least_B1) & (k_B1 < vocabulary), -torch.inf)
    if dials.top_p_B1 is not None:
        scores_BV = scores_BV.masked_fill(scores_BV < _least_of_top_p(scores_BV, dials.top_p_B1), -torch.inf)
    if dials.min_p_B1 is not None:
        least_B1 = scores_BV.amax(-1, keepdim=True) + dials.min_p_B1.log()
        scores_BV = scores_BV.masked_fill(scores_BV < least_B1, -torch.inf)
    return scores_BV


def _least_of_top_p(scores_BV: Tensor, top_p_B1: Tensor) -> Tensor:
    """The score of the last id of each row's smallest set with mass top_p; -inf where nothing is cut."""
    normaliser_B1 = scores_BV.logsumexp(-1, keepdim=True)
    for count in (min(CANDIDATES, scores_BV.shape[1]), scores_BV.shape[1]):
        best_Bk = scores_BV.topk(count).values
        mass_Bk = (best_Bk - normaliser_B1).exp().double().cumsum(-1)
        inside = mass_Bk >= top_p_B1
        if bool((inside[:, -1:] | (top_p_B1 >= 1)).all()):
            break
    last_B1 = inside.int().argmax(-1, keepdim=True)
    least_B1 = best_Bk.gather(1, last_B1)
    return least_B1.masked_fill((top_p_B1 >= 1) | ~inside[:, -1:], -torch.inf)


def uniforms(rows: Sequence[Completion], device: torch.device) -> Tensor:
    """One number in [0, 1) for each row's next token: a hash of (its seed, the token's place)."""
    seeds = torch.tensor([row.sampling.seed & (1 << 63) - 1 for row in rows], dtype=torch.int64)
    places = torch.tensor([len(row.token_ids) for row in rows], dtype=torch.int64)
    mixed = _mix(_mix(seeds * -7046029254386353131 + 1442695040888963407) ^ (places * -4658895280553007687))
    return (_shift(mixed, 11).double() * 2.0**-53).to(device)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014), in arithmetic modulo 2^64."""
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; PyTorch's int64 is signed and would drag the sign along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
