"""From hidden states of a student and a teacher to their divergence per token, neither's logits ever whole.

With p the teacher's distribution of the next token, q the student's, both of logits divided by the temperature:

    forward_kl      KL(p || q) = sum p (log p - log q)
    reverse_kl      KL(q || p) = sum q (log q - log p)
    jensen_shannon  beta KL(p || m) + (1 - beta) KL(q || m),  m = beta p + (1 - beta) q     (GKD, 2306.13649)

The last becomes forward_kl times beta as beta goes to 0, and reverse_kl times 1 - beta as it goes to 1; at both
ends it is 0, so the ends are refused. Nothing is multiplied by the temperature squared (Hinton et al., 1503.02531,
do so to keep gradients comparable when the temperature changes).

The teacher is either there, as hidden states and a head, or was: its k likeliest tokens with their log-probs and
the mass of all others. Then the student is measured on these k + 1 events. That is a lower bound on the divergence
over the whole vocabulary, and equal to it when k is the vocabulary.

Only the student gets a gradient, of hidden states, head and bias. With g = d divergence / d log q, that of the
scores is g - q sum g. The chunks are those of linear_logprob_torch.py, and so are products and float32 sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rung.kernels import linear_logprob_torch as plain
from rung.kernels.linear_logprob_torch import Head

Kind = Literal["forward_kl", "reverse_kl", "jensen_shannon"]
CHUNK_ELEMENTS = 2**24  # scores of a chunk; some six float32 arrays of this size are alive at a time


@dataclass(frozen=True)
class Live:
    """The teacher's states at the same tokens, and its head."""

    hidden_ND: Tensor  # its own width
    head: Head


@dataclass(frozen=True)
class TopK:
    """What is kept of a teacher, at the temperature it will be used with. -1 fills up a short row, never its first place."""

    ids_Nk: Tensor  # int64
    logprobs_Nk: Tensor
    tail_N: Tensor  # log of the mass of all other tokens; -inf where there are none


@dataclass(frozen=True)
class Measure:
    """Which divergence."""

    kind: Kind = "forward_kl"
    beta: float = 0.5

    def __post_init__(self) -> None:
        if self.kind == "jensen_shannon" and not 0 < self.beta < 1:
            raise ValueError(
                f"beta {self.beta}: at 0 and 1 the Jensen-Shannon divergence is 0 whatever the student says; take a "
                "number between, or forward_kl (what beta near 0 is like) or reverse_kl (beta near 1)"
            )

    def value(self, logq: Tensor, logp: Tensor) -> Tensor:
        """The divergence over the events of the last axis. An event that both exclude adds nothing."""
        if self.kind == "forward_kl":
            return _expected(logp, logp - logq)
        if self.kind == "reverse_kl":
            return _expected(logq, logq - logp)
        logm = self._mixed(logq, logp)
        return self.beta * _expected(logp, logp - logm) + (1 - self.beta) * _expected(logq, logq - logm)

    def slope(self, logq: Tensor, logp: Tensor) -> Tensor:
        """d value / d log q, each log q by itself."""
        if self.kind == "forward_kl":
            return -logp.exp()
        q = logq.exp()
        if self.kind == "reverse_kl":
            return torch.where(q > 0, q * (logq - logp + 1), 0.0)
        return torch.where(q > 0, (1 - self.beta) * q * (logq - self._mixed(logq, logp)), 0.0)

    def _mixed(self, logq: Tensor, logp: Tensor) -> Tensor:
        return torch.logaddexp(logp + math.log(self.beta), logq + math.log1p(-self.beta))


def _expected(logp: Tensor, x: Tensor) -> Tensor:
    p = logp.exp()
    return torch.where(p > 0, p * x, 0.0).sum(-1)


@dataclass(frozen=True)
class LinearDivergence:
    """Per token, float32 (float64 for float64 inputs), both differentiable. The log-prob is at temperature 1."""

    divergence_N: Tensor
    logprob_N: Tensor


def linear_divergence(
    hidden_ND: Tensor, head: Head, targets_N: Tensor, teacher: Live | TopK, measure: Measure
) -> LinearDivergence:
    """How far the student's next-token distribution is from the teacher's, and its log-prob of each target.

    The temperature is the head's; a live teacher's head must have the same.
    """
    _check(hidden_ND, head, targets_N, teacher)
    head = replace(head, chunk_tokens=head.chunk_tokens or max(CHUNK_ELEMENTS // len(head.weight_VD), 1))
    parts = _Divergence.apply(hidden_ND, head.weight_VD, head.bias_V, targets_N, teacher, head, measure)
    return LinearDivergence(*parts)


@torch.no_grad()
def top_k_and_tail(hidden_ND: Tensor, head: Head, k: int) -> TopK:
    """The k likeliest tokens and the mass of the rest, summed from the rest itself: 1 - sum would be all rounding."""
    if not 0 < k <= len(head.weight_VD):
        raise ValueError(f"k is {k}, and the vocabulary has {len(head.weight_VD)} tokens")
    head = replace(head, chunk_tokens=head.chunk_tokens or max(CHUNK_ELEMENTS // len(head.weight_VD), 1))
    parts = []
    for chunk in plain.chunk_slices(hidden_ND, head):
        logp_CV = _logprobs(plain.head_product(hidden_ND[chunk], head), head)
        logprobs_Ck, ids_Ck = logp_CV.topk(k, dim=1)
        parts.append((ids_Ck, logprobs_Ck, logp_CV.scatter(1, ids_Ck, -math.inf).logsumexp(1)))
    return TopK(*(torch.cat(column) for column in zip(*parts, strict=True)))


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        teacher: Live | TopK,
        head: Head,
        measure: Measure,
    ) -> tuple[Tensor, Tensor]:
        ctx.teacher, ctx.measure = teacher, measure
        ctx.options = (head.temperature, head.softcap, head.float32, head.chunk_tokens)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden_ND, targets_N, weight_VD, bias_V)
        divergences, logprobs = [], []
        for chunk in plain.chunk_slices(hidden_ND, head):
            logq_CV = _logprobs(plain.head_product(hidden_ND[chunk], head), head)
            events = _events(logq_CV, teacher, _rows(hidden_ND)[chunk])
            divergences.append(measure.value(*events))
            logprobs.append(_untempered(logq_CV, head).gather(1, targets_N[chunk, None]).squeeze(1))
        return torch.cat(divergences), torch.cat(logprobs)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, divergence_N: Tensor | None, logprob_N: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden_ND, targets_N, weight_VD, bias_V = ctx.saved_tensors
        head, teacher, measure = Head(weight_VD, bias_V, *ctx.options), ctx.teacher, ctx.measure
        nothing_N = torch.zeros_like(targets_N, dtype=_wide(hidden_ND))
        slopes = [nothing_N if slope_N is None else slope_N for slope_N in (divergence_N, logprob_N)]

        def chunk_gradient(
            logits_CV: Tensor, head: Head, rows_C1: Tensor, slope_C2: Tensor, _: Tensor | None
        ) -> tuple[Tensor, Tensor, Tensor | None]:
            rows_C = rows_C1[:, 0]
            logq_CV = _logprobs(logits_CV, head)
            gradient_CV = _divergence_gradient(logq_CV, teacher, rows_C, measure)
            gradient_CV = gradient_CV.mul_(slope_C2[:, :1] / head.temperature)
            if logprob_N is not None:
                p_CV = _untempered(logq_CV, head).exp()
                gradient_CV.sub_(p_CV.mul_(slope_C2[:, 1:]))
                gradient_CV.scatter_add_(1, targets_N[rows_C, None], slope_C2[:, 1:])
            if head.softcap is not None:
                gradient_CV.mul_(1 - _scores(logits_CV, head).mul(head.temperature / head.softcap).square())
            bias_V = None if head.bias_V is None else gradient_CV.sum(0)
            return gradient_CV.to(weight_VD.dtype), slope_C2, bias_V

        found = plain.gradients(
            hidden_ND, head, _rows(hidden_ND)[:, None], torch.stack(slopes, 1), None,
            ctx.needs_input_grad[:3], chunk_gradient,
        )  # fmt: skip
        return found.hidden_ND, found.weight_VD, found.bias_V, *[None] * 4


def _events(logq_CV: Tensor, teacher: Live | TopK, rows_C: Tensor) -> tuple[Tensor, Tensor]:
    """`(log q, log p)` of the events on which the two are compared."""
    if isinstance(teacher, Live):
        product_CV = plain.head_product(teacher.hidden_ND[rows_C], teacher.head)
        return logq_CV, _logprobs(product_CV, teacher.head).to(logq_CV.dtype)
    ids_Ck, there_Ck = _ids(teacher, rows_C)
    chosen_Ck = logq_CV.gather(1, ids_Ck).masked_fill(~there_Ck, -math.inf)
    tail_C1 = logq_CV.scatter(1, ids_Ck, -math.inf).logsumexp(1, keepdim=True)
    p = torch.cat(
        [teacher.logprobs_Nk[rows_C].masked_fill(~there_Ck, -math.inf), teacher.tail_N[rows_C, None]], 1
    )
    return torch.cat([chosen_Ck, tail_C1], 1), p.to(logq_CV.dtype)


def _divergence_gradient(logq_CV: Tensor, teacher: Live | TopK, rows_C: Tensor, measure: Measure) -> Tensor:
    """d divergence / d scores, `[C, V]`. The slope of the tail falls on its tokens by their share in it."""
    logq, logp = _events(logq_CV, teacher, rows_C)
    slope = measure.slope(logq, logp)
    total_C1 = slope.sum(1, keepdim=True)
    if isinstance(teacher, TopK):
        ids_Ck, _ = _ids(teacher, rows_C)
        share_CV = (logq_CV - logq[:, -1:]).exp_().scatter_(1, ids_Ck, 0.0)
        slope = share_CV.mul_(slope[:, -1:]).scatter_add_(1, ids_Ck, slope[:, :-1])  # a gap's slope is 0
    return slope - logq_CV.exp() * total_C1


def _ids(teacher: TopK, rows_C: Tensor) -> tuple[Tensor, Tensor]:
    """Ids that may be looked up, and which of them are there; a gap repeats the row's first."""
    ids_Ck = teacher.ids_Nk[rows_C]
    there_Ck = ids_Ck >= 0
    return torch.where(there_Ck, ids_Ck, ids_Ck[:, :1]), there_Ck


def _logprobs(logits_CV: Tensor, head: Head) -> Tensor:
    return torch.log_softmax(_scores(logits_CV, head), 1)


def _scores(logits_CV: Tensor, head: Head) -> Tensor:
    """In float32 or float64, leaving the logits as they are."""
    scores_CV = logits_CV.to(_wide(logits_CV))
    if head.bias_V is not None:
        scores_CV = scores_CV + head.bias_V
    if head.softcap is not None:
        scores_CV = torch.tanh(scores_CV / head.softcap) * head.softcap
    return scores_CV / head.temperature if head.temperature != 1.0 else scores_CV


def _untempered(logq_CV: Tensor, head: Head) -> Tensor:
    """The log-probs at temperature 1: log q times T is the logits but for a constant."""
    return logq_CV if head.temperature == 1.0 else torch.log_softmax(logq_CV * head.temperature, 1)


def _rows(hidden_ND: Tensor) -> Tensor:
    return torch.arange(len(hidden_ND), device=hidden_ND.device)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _check(hidden_ND: Tensor, head: Head, targets_N: Tensor, teacher: Live | TopK) -> None:
    vocabulary, tokens = len(head.weight_VD), len(hidden_ND)
    if isinstance(teacher, Live):
        rows, theirs = len(teacher.head.weight_VD), len(teacher.hidden_ND)
        if rows != vocabulary:
            raise ValueError(
                f"the student's head has {vocabulary} rows and the teacher's {rows}; their tokens must be the same, so "
                "cut the heads to the tokens both have"
            )
        if teacher.head.temperature != head.temperature:
            raise ValueError(
                f"temperatures {head.temperature} and {teacher.head.temperature} are not comparable"
            )
    else:
        theirs = len(teacher.ids_Nk)
        if theirs and int(teacher.ids_Nk[:, 0].min()) < 0:
            raise ValueError("a row of the teacher names no token at all; give at least one")
        if teacher.ids_Nk.numel() and int(teacher.ids_Nk.max()) >= vocabulary:
            raise ValueError(
                f"the teacher names token {int(teacher.ids_Nk.max())}, the student's head has {vocabulary} rows"
            )
    if len(targets_N) != tokens or theirs != tokens:
        raise ValueError(f"{tokens} hidden states, {len(targets_N)} targets and {theirs} rows of the teacher")
