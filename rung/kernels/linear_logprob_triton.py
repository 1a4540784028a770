"""The Triton half of linear_logprob: two kernels that keep score-sized tensors out of GPU memory traffic.

`forward` is in the manner of cut cross-entropy (arXiv 2411.09009): each program multiplies a block of tokens
with some tiles of the vocabulary and keeps, per token, only the running maximum, the sum of exponentials, the
sum weighted by the score (for the entropy) and the target's score. No logits reach memory. The few partial
sums per token are joined by torch.

`chunk_gradient` is in the manner of Liger (arXiv 2410.10989): logits of one chunk come from the vendor's
matrix product, one program per token reads its row twice (normaliser, then gradient) and writes the gradient
in the weight's dtype, and the vendor's product uses it. So products run at full speed and nothing needs
atomics: the gradients are deterministic. The loop over chunks and the sums are those of the plain twin,
which stays the definition; the tests hold this file against it.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from rung.kernels.linear_logprob_torch import Head, Scores

TOKENS_PER_BLOCK = 64
IDS_PER_TILE = 128
BYTES_PER_STEP = 128  # of the width: 64 half-precision numbers, 32 in float32, to fit the shared memory
TILES_PER_PROGRAM = 8
IDS_PER_STEP = 4096
LOWEST = -1e30  # a finite start for running maxima: minus infinity less minus infinity is not a number


def forward(hidden_ND: Tensor, head: Head, ids_N1: Tensor, entropy: bool = False) -> Scores:
    """Log-probs of one id per token and, when asked, the entropy."""
    tokens, vocabulary = len(hidden_ND), len(head.weight_VD)
    ids_N = ids_N1[:, 0].contiguous()
    programs = triton.cdiv(vocabulary, IDS_PER_TILE * TILES_PER_PROGRAM)
    partial = torch.empty(4, programs, max(tokens, 1), dtype=torch.float32, device=hidden_ND.device)
    if tokens:
        with _device_of(hidden_ND):
            _forward_kernel[(triton.cdiv(tokens, TOKENS_PER_BLOCK), programs)](
                hidden_ND,
                head.weight_VD,
                *_bias_and_ids(head, ids_N),
                partial,
                tokens,
                vocabulary,
                hidden_ND.shape[1],
                *hidden_ND.stride(),
                *head.weight_VD.stride(),
                *partial.stride()[:2],
                **_score_options(head),
                BLOCK_N=TOKENS_PER_BLOCK,
                BLOCK_V=IDS_PER_TILE,
                BLOCK_D=BYTES_PER_STEP // hidden_ND.element_size(),
                TILES=TILES_PER_PROGRAM,
                LOWEST=LOWEST,
            )
    peaks_PN, sums_PN, weighted_PN, chosen_PN = partial[:, :, :tokens]
    peak_N = peaks_PN.amax(0)
    rescale_PN = (peaks_PN - peak_N).exp()
    sum_N = (sums_PN * rescale_PN).sum(0)
    lse_N = peak_N + sum_N.log()
    entropy_N = lse_N - (weighted_PN * rescale_PN).sum(0) / sum_N if entropy else None
    return Scores((chosen_PN.sum(0) - lse_N)[:, None], entropy_N, None, None)


def chunk_gradient(
    logits_CV: Tensor, head: Head, ids_C1: Tensor, slope_C1: Tensor, entropy_slope_C: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The contract of the plain twin's `chunk_gradient`, for one id per token."""
    tokens, vocabulary = logits_CV.shape
    gradient_CV = torch.empty_like(logits_CV, dtype=head.weight_VD.dtype)
    logprob_C1 = torch.empty_like(slope_C1, dtype=torch.float32)
    ids_C, slope_C = ids_C1[:, 0].contiguous(), slope_C1[:, 0].contiguous()
    entropy_slope_or_any = slope_C if entropy_slope_C is None else entropy_slope_C.contiguous()
    if tokens:
        with _device_of(logits_CV):
            _gradient_kernel[(tokens,)](
                logits_CV,
                gradient_CV,
                *_bias_and_ids(head, ids_C),
                slope_C,
                entropy_slope_or_any,
                logprob_C1,
                vocabulary,
                logits_CV.stride(0),
                gradient_CV.stride(0),
                **_score_options(head),
                HAS_ENTROPY=entropy_slope_C is not None,
                BLOCK_V=min(IDS_PER_STEP, triton.next_power_of_2(vocabulary)),
                LOWEST=LOWEST,
                num_warps=8,
            )
    bias_V = None if head.bias_V is None else gradient_CV.sum(0, dtype=torch.float32)
    return gradient_CV, logprob_C1, bias_V


def _device_of(tensor: Tensor):
    """Triton launches on the current device; a CPU tensor comes only to Triton's interpreter."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _bias_and_ids(head: Head, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    return ids_N if head.bias_V is None else head.bias_V.contiguous(), ids_N


def _score_options(head: Head) -> dict:
    return {
        "softcap": 1.0 if head.softcap is None else float(head.softcap),
        "temperature": float(head.temperature),
        "HAS_BIAS": head.bias_V is not None,
        "HAS_CAP": head.softcap is not None,
    }


@triton.jit
def _scores(
    logits, bias_ptr, ids, inside, softcap, temperature, HAS_BIAS: tl.constexpr, HAS_CAP: tl.constexpr
):
    """Scores of the logits at `ids` (their last axis), and the slope of score against logit."""
    if HAS_BIAS:
        logits += tl.load(bias_ptr + ids, mask=inside, other=0.0).to(tl.float32)
    slope = tl.zeros_like(logits) + 1.0
    if HAS_CAP:
        # tanh by the sigmoid, which is in every Triton
        squash = 2.0 * tl.sigmoid(2.0 * logits / softcap) - 1.0
        logits = softcap * squash
        slope = 1.0 - squash * squash
    return logits / temperature, slope / temperature


@triton.jit
def _forward_kernel(
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    ids_ptr,
    partial_ptr,
    tokens,
    vocabulary,
    width,
    hidden_stride_n,
    hidden_stride_d,
    weight_stride_v,
    weight_stride_d,
    partial_stride_kind,
    partial_stride_program,
    softcap,
    temperature,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILES: tl.constexpr,
    LOWEST: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = rows < tokens
    wanted = tl.load(ids_ptr + rows, mask=real, other=-1)
    hidden_rows = hidden_ptr + rows.to(tl.int64)[:, None] * hidden_stride_n
    peak = tl.full([BLOCK_N], LOWEST, tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    weighted = tl.zeros([BLOCK_N], tl.float32)
    chosen = tl.zeros([BLOCK_N], tl.float32)
    for tile in range(TILES):
        ids = (tl.program_id(1) * TILES + tile) * BLOCK_V + tl.arange(0, BLOCK_V)
        inside = ids < vocabulary
        weight_columns = weight_ptr + ids.to(tl.int64)[None, :] * weight_stride_v
        logits = tl.zeros([BLOCK_N, BLOCK_V], tl.float32)
        for start in range(0, width, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            left = tl.load(
                hidden_rows + d[None, :] * hidden_stride_d,
                mask=real[:, None] & (d < width)[None, :],
                other=0.0,
            )
            right = tl.load(
                weight_columns + d[:, None] * weight_stride_d,
                mask=(d < width)[:, None] & inside[None, :],
                other=0.0,
            )
            logits = tl.dot(left, right, logits, input_precision="ieee")
        scores, _ = _scores(
            logits, bias_ptr, ids[None, :], inside[None, :], softcap, temperature, HAS_BIAS, HAS_CAP
        )
        scores = tl.where(inside[None, :], scores, float("-inf"))
        chosen += tl.sum(tl.where(ids[None, :] == wanted[:, None], scores, 0.0), axis=1)
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        e = tl.exp(scores - new_peak[:, None])
        rescale = tl.exp(peak - new_peak)
        total = total * rescale + tl.sum(e, axis=1)
        weighted = weighted * rescale + tl.sum(e * tl.maximum(scores, LOWEST), axis=1)
        peak = new_peak
    out = partial_ptr + tl.program_id(1) * partial_stride_program + rows
    tl.store(out, peak, mask=real)
    tl.store(out + partial_stride_kind, total, mask=real)
    tl.store(out + 2 * partial_stride_kind, weighted, mask=real)
    tl.store(out + 3 * partial_stride_kind, chosen, mask=real)


@triton.jit
def _gradient_kernel(
    logits_ptr,
    gradient_ptr,
    bias_ptr,
    ids_ptr,
    slope_ptr,
    entropy_slope_ptr,
    logprob_ptr,
    vocabulary,
    logits_stride,
    gradient_stride,
    softcap,
    temperature,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    BLOCK_V: tl.constexpr,
    LOWEST: tl.constexpr,
):
    row = tl.program_id(0)
    logits_row = logits_ptr + row.to(tl.int64) * logits_stride
    gradient_row = gradient_ptr + row.to(tl.int64) * gradient_stride
    wanted = tl.load(ids_ptr + row)
    slope = tl.load(slope_ptr + row)
    peak = -1e30  # as LOWEST
    total = 0.0
    weighted = 0.0
    chosen = 0.0
    for start in range(0, vocabulary, BLOCK_V):
        ids = start + tl.arange(0, BLOCK_V)
        inside = ids < vocabulary
        logits = tl.load(logits_row + ids, mask=inside, other=0.0).to(tl.float32)
        scores, _ = _scores(logits, bias_ptr, ids, inside, softcap, temperature, HAS_BIAS, HAS_CAP)
        scores = tl.where(inside, scores, float("-inf"))
        chosen += tl.sum(tl.where(ids == wanted, scores, 0.0), axis=0)
        new_peak = tl.maximum(peak, tl.max(scores, axis=0))
        e = tl.exp(scores - new_peak)
        rescale = tl.exp(peak - new_peak)
        total = total * rescale + tl.sum(e, axis=0)
        weighted = weighted * rescale + tl.sum(e * tl.maximum(scores, LOWEST), axis=0)
        peak = new_peak
    lse = peak + tl.log(total)
    tl.store(logprob_ptr + row, chosen - lse)
    for start in range(0, vocabulary, BLOCK_V):
        ids = start + tl.arange(0, BLOCK_V)
        inside = ids < vocabulary
        logits = tl.load(logits_row + ids, mask=inside, other=0.0).to(tl.float32)
        scores, chain = _scores(logits, bias_ptr, ids, inside, softcap, temperature, HAS_BIAS, HAS_CAP)
        p = tl.exp(scores - lse)
        pull = tl.zeros([BLOCK_V], tl.float32) + slope
        if HAS_ENTROPY:
            entropy = lse - weighted / total
            pull += tl.load(entropy_slope_ptr + row) * tl.where(p > 0, scores - lse + entropy, 0.0)
        gradient = (tl.where(ids == wanted, slope, 0.0) - p * pull) * chain
        tl.store(gradient_row + ids, gradient.to(gradient_ptr.dtype.element_ty), mask=inside)
