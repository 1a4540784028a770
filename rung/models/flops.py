"""Arithmetic of one training step, for the share of the matrix peak that a run reaches."""

from __future__ import annotations

from rung.models.config import DecoderConfig


def training_flops(config: DecoderConfig, tokens: float, trained: float, mean_context: float) -> float:
    """Useful floating-point operations of forward and backward: 6 per weight and token that meet.

    The head counts for trained tokens only, since no other position reaches it; a mixture counts its
    chosen experts; attention counts half its square, the causal half. Recomputation is not useful work.
    """
    c = config
    attention = c.width * c.head_width * (2 * c.heads + 2 * c.kv_heads)
    per_token = 0.0
    for experts in c.experts:
        mlp = (
            c.width * c.mlp_width * 3
            if experts is None
            else c.width * (experts.width * 3 * experts.top_k + experts.count)
        )
        per_token += attention + mlp + 2 * c.heads * c.head_width * mean_context / 2
    return 6 * (per_token * tokens + c.vocabulary * c.width * trained)
