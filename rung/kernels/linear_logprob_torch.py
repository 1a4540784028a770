"""Log-probs of a linear head in plain torch: one chunk of logits at a time, on any device and in any dtype.

A chunk is some tokens times the whole vocabulary. Its logits are formed by one matrix product, turned into
log-probs (forward) or overwritten by their own gradient (backward), and forgotten. Nothing of size
[tokens, vocabulary] outlives a chunk; the backward pass forms the logits a second time.

Precision: logits of bf16 or fp16 inputs are rounded to that dtype by the product on CPU (`head_float32`
avoids it) and arrive in float32 on CUDA; from there on everything is float32 until the gradient of the logits
is rounded once, target subtracted, for its two products. On CPU this float32 work walks over blocks of rows
small enough to stay in the cache. The weight's gradient adds up over chunks in float32 and is cast once.

Axes beside the legend in rung/batch.py: C tokens of a chunk, R rows of a block, J ids to score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**26  # logits of one chunk; 128 MB in bf16, 1365 tokens at a vocabulary of 49,152
BLOCK_ELEMENTS = 2**21  # float32 logits a CPU core works on at a time: cached, yet few parallel regions
TILE_ROWS = 8192  # rows of the weight that are converted, or whose gradient is added, at a time on CPU


@dataclass(frozen=True)
class Head:
    """The last layer and how its logits become scores: softcap(hidden @ weight.T + bias) / temperature."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    temperature: float = 1.0
    softcap: float | None = None
    float32: bool = False
    chunk_tokens: int | None = None


@dataclass(frozen=True)
class Scores:
    """What the forward pass says; `entropy_N` and the top choices are None unless asked."""

    logprob_NJ: Tensor
    entropy_N: Tensor | None
    top_logprobs_Nk: Tensor | None
    top_ids_Nk: Tensor | None


@dataclass(frozen=True)
class Gradients:
    """Parts that were not wanted are None. The log-probs come for free, since the logits were there."""

    hidden_ND: Tensor | None
    weight_VD: Tensor | None
    bias_V: Tensor | None
    logprob_NJ: Tensor


# (logits_CV, head, ids_CJ, slope_CJ, entropy_slope_C) -> (gradient_CV in weight dtype, logprob_CJ, bias_V)
ChunkGradient = Callable[[Tensor, Head, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor | None]]


def forward(hidden_ND: Tensor, head: Head, ids_NJ: Tensor, entropy: bool = False, top_k: int = 0) -> Scores:
    """Log-probs of the given ids; when asked, the entropy and the `top_k` likeliest ids of every token."""
    parts: list[tuple[Tensor, ...]] = []
    buffer_CV = None
    for chunk in chunk_slices(hidden_ND, head):
        logits_CV = head_product(hidden_ND[chunk], head, buffer_CV)
        for rows, block_RV in _float_blocks(logits_CV):
            parts.append(_score_rows(block_RV, head, ids_NJ[chunk][rows], entropy, top_k))
        buffer_CV = _reusable(logits_CV)
        del logits_CV, block_RV  # one chunk at a time
    logprob_NJ, entropy_N, top_logprobs_Nk, top_ids_Nk = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    return Scores(
        logprob_NJ,
        entropy_N if entropy else None,
        top_logprobs_Nk if top_k else None,
        top_ids_Nk if top_k else None,
    )


def _score_rows(
    block_RV: Tensor, head: Head, ids_RJ: Tensor, entropy: bool, top_k: int
) -> tuple[Tensor, ...]:
    logprobs_RV = _over_rows(torch.log_softmax, _scores_(block_RV, head))
    logprob_RJ = logprobs_RV.gather(1, ids_RJ)
    top_logprobs_Rk, top_ids_Rk = logprobs_RV.topk(top_k, dim=1)
    entropy_R = _entropy(logprobs_RV, logprobs_RV.exp()).squeeze(1) if entropy else logprobs_RV.new_empty(0)
    return logprob_RJ, entropy_R, top_logprobs_Rk, top_ids_Rk


def gradients(
    hidden_ND: Tensor,
    head: Head,
    ids_NJ: Tensor,
    slope_NJ: Tensor,
    entropy_slope_N: Tensor | None,
    wanted: tuple[bool, ...],
    chunk_gradient: ChunkGradient,
) -> Gradients:
    """Gradients of sum(slope * logprob) + sum(entropy_slope * entropy); wanted: of hidden, weight, bias."""
    chunks = chunk_slices(hidden_ND, head)
    hidden_gradient_ND = torch.empty_like(hidden_ND) if wanted[0] else None
    weight_gradient_VD = _start_weight_gradient(head.weight_VD, len(chunks)) if wanted[1] else None
    bias_gradient_V = torch.zeros_like(head.bias_V, dtype=slope_NJ.dtype) if wanted[2] else None  # type: ignore
    logprobs, buffer_CV = [], None
    for chunk in chunks:
        logits_CV = head_product(hidden_ND[chunk], head, buffer_CV)
        entropy_slope_C = None if entropy_slope_N is None else entropy_slope_N[chunk]
        gradient_CV, logprob_CJ, bias_V = chunk_gradient(
            logits_CV, head, ids_NJ[chunk], slope_NJ[chunk], entropy_slope_C
        )
        logprobs.append(logprob_CJ)
        if hidden_gradient_ND is not None:
            torch.mm(gradient_CV, head.weight_VD, out=hidden_gradient_ND[chunk])
        if weight_gradient_VD is not None:
            _add_product(weight_gradient_VD, gradient_CV, hidden_ND[chunk], replace=len(chunks) == 1)
        if bias_gradient_V is not None:
            bias_gradient_V.add_(bias_V)  # type: ignore[arg-type]
        buffer_CV = _reusable(logits_CV)
        del logits_CV, gradient_CV  # one chunk at a time
    return Gradients(
        hidden_gradient_ND,
        None if weight_gradient_VD is None else weight_gradient_VD.to(head.weight_VD.dtype),
        None if bias_gradient_V is None else bias_gradient_V.to(head.bias_V.dtype),  # type: ignore[union-attr]
        torch.cat(logprobs),
    )


def chunk_gradient(
    logits_CV: Tensor, head: Head, ids_CJ: Tensor, slope_CJ: Tensor, entropy_slope_C: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradient of a chunk's logits, over the logits themselves where the dtypes agree."""
    gradient_CV = logits_CV
    if logits_CV.dtype != head.weight_VD.dtype:
        gradient_CV = torch.empty_like(logits_CV, dtype=head.weight_VD.dtype)
    bias_V = None if head.bias_V is None else torch.zeros_like(head.bias_V, dtype=slope_CJ.dtype)
    logprobs = []
    for rows, block_RV in _float_blocks(logits_CV):
        entropy_slope_R = None if entropy_slope_C is None else entropy_slope_C[rows]
        block_RV, logprob_RJ = _gradient_rows(block_RV, head, ids_CJ[rows], slope_CJ[rows], entropy_slope_R)
        if block_RV.data_ptr() != gradient_CV[rows].data_ptr():
            gradient_CV[rows].copy_(block_RV)
        if bias_V is not None:
            bias_V.add_(block_RV.sum(0))
        logprobs.append(logprob_RJ)
    return gradient_CV, torch.cat(logprobs), bias_V


def _gradient_rows(
    block_RV: Tensor, head: Head, ids_RJ: Tensor, slope_RJ: Tensor, entropy_slope_R: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One block of raw logits in, their gradient and the log-probs of the ids out. With p the softmax:

    d logprob[j] / d score[v] = [v == j] - p[v],    d entropy / d score[v] = -p[v] (log p[v] + entropy)
    """
    scores_RV = _scores_(block_RV, head)
    slope_of_cap_RV = None
    if head.softcap is not None:  # score = cap tanh(logit / cap) / temperature
        slope_of_cap_RV = (scores_RV * (head.temperature / head.softcap)).square_().neg_().add_(1)
    total_R1 = slope_RJ.sum(1, keepdim=True)
    if entropy_slope_R is None:
        chosen_RJ, peak_R1 = scores_RV.gather(1, ids_RJ), scores_RV.amax(1, keepdim=True)
        p_RV = _over_rows(torch.softmax, scores_RV)
        logprob_RJ = chosen_RJ - peak_R1 + p_RV.amax(1, keepdim=True).log()  # the peak's p never underflows
        gradient_RV = p_RV.mul_(-total_R1)
    else:
        logprobs_RV = _over_rows(torch.log_softmax, scores_RV)
        logprob_RJ, p_RV = logprobs_RV.gather(1, ids_RJ), logprobs_RV.exp()
        surprise_RV = logprobs_RV.add_(_entropy(logprobs_RV, p_RV))
        gradient_RV = surprise_RV.mul_(entropy_slope_R[:, None]).add_(total_R1).mul_(p_RV).neg_()
    gradient_RV.scatter_add_(1, ids_RJ, slope_RJ)
    if slope_of_cap_RV is not None:
        gradient_RV.mul_(slope_of_cap_RV)
    if head.temperature != 1.0:
        gradient_RV.div_(head.temperature)
    return gradient_RV, logprob_RJ


def _scores_(block_RV: Tensor, head: Head) -> Tensor:
    """Raw logits to scores, in place."""
    if head.bias_V is not None:
        block_RV.add_(head.bias_V)
    if head.softcap is not None:
        block_RV.div_(head.softcap).tanh_().mul_(head.softcap)
    if head.temperature != 1.0:
        block_RV.div_(head.temperature)
    return block_RV


def _entropy(logprobs_RV: Tensor, p_RV: Tensor) -> Tensor:
    """Clamps impossible ids (log-prob -inf) in place: p log p is 0 there, and 0 times infinity is not."""
    return -(p_RV * logprobs_RV.clamp_(min=-1e30)).sum(1, keepdim=True)


def _over_rows(function: Callable, block_RV: Tensor) -> Tensor:
    """softmax or log_softmax; in place on CPU, where a row is read before it is written."""
    return function(block_RV, -1, out=block_RV) if block_RV.device.type == "cpu" else function(block_RV, -1)


def _reusable(logits_CV: Tensor) -> Tensor | None:
    """On CPU fresh memory costs page faults; on a GPU it is cheap, and products bring their own."""
    return logits_CV if logits_CV.device.type == "cpu" else None


def head_product(hidden_CD: Tensor, head: Head, buffer_CV: Tensor | None = None) -> Tensor:
    """Raw logits of a chunk, over the last chunk's if given; float32 if the device or the head wants it."""
    half = hidden_CD.dtype in (torch.bfloat16, torch.float16)
    if half and hidden_CD.is_cuda:
        return torch.mm(hidden_CD, head.weight_VD.t(), out_dtype=torch.float32)
    tokens, vocabulary = len(hidden_CD), len(head.weight_VD)
    if buffer_CV is None:
        buffer_CV = hidden_CD.new_empty(
            tokens, vocabulary, dtype=torch.float32 if half and head.float32 else None
        )
    logits_CV = buffer_CV[:tokens]
    if logits_CV.dtype == hidden_CD.dtype:
        return torch.mm(hidden_CD, head.weight_VD.t(), out=logits_CV)
    wide_CD = hidden_CD.float()
    for tile in _slices(vocabulary, TILE_ROWS):
        logits_CV[:, tile] = wide_CD @ head.weight_VD[tile].float().t()
    return logits_CV


def _start_weight_gradient(weight_VD: Tensor, chunks: int) -> Tensor:
    """One chunk's product adds up in float32 inside the product already; several need a float32 sum."""
    if chunks == 1:
        return torch.empty_like(weight_VD)
    wide = torch.promote_types(weight_VD.dtype, torch.float32)
    return torch.zeros_like(weight_VD, dtype=wide)


def _add_product(sum_VD: Tensor, gradient_CV: Tensor, hidden_CD: Tensor, replace: bool) -> None:
    """sum += gradient.T @ hidden; for the only chunk, sum = gradient.T @ hidden."""
    gradient_VC = gradient_CV.t()
    if replace:
        torch.mm(gradient_VC, hidden_CD, out=sum_VD)
    elif sum_VD.dtype == hidden_CD.dtype:
        sum_VD.addmm_(gradient_VC, hidden_CD)
    elif hidden_CD.is_cuda:
        sum_VD.add_(torch.mm(gradient_VC, hidden_CD, out_dtype=torch.float32))
    else:  # a CPU product comes rounded; in tiles, it is added while it is in the cache
        for tile in _slices(len(sum_VD), TILE_ROWS):
            sum_VD[tile].add_(torch.mm(gradient_VC[tile], hidden_CD))


def chunk_slices(hidden_ND: Tensor, head: Head) -> list[slice]:
    """Chunks of nearly equal size, none above the limit; one empty chunk when there are no tokens."""
    tokens = len(hidden_ND)
    limit = head.chunk_tokens or max(CHUNK_ELEMENTS // len(head.weight_VD), 1)
    count = max(-(-tokens // limit), 1)
    return list(_slices(tokens, max(-(-tokens // count), 1))) or [slice(0, 0)]


def _slices(total: int, step: int) -> Iterator[slice]:
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


def _float_blocks(logits_CV: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows in float32 or float64: views of the logits, or one reused float32 copy of half ones."""
    tokens, vocabulary = logits_CV.shape
    step = max(tokens, 1)
    if logits_CV.device.type == "cpu":
        step = max(min(BLOCK_ELEMENTS * torch.get_num_threads(), CHUNK_ELEMENTS // 4) // vocabulary, 1)
    scratch_RV = None
    for rows in _slices(tokens, step) if tokens else [slice(0, 0)]:
        if logits_CV.dtype in (torch.float32, torch.float64):
            yield rows, logits_CV[rows]
            continue
        if scratch_RV is None:
            scratch_RV = torch.empty_like(logits_CV[rows], dtype=torch.float32)
        yield rows, scratch_RV[: rows.stop - rows.start].copy_(logits_CV[rows])
