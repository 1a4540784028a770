"""Rotary position embedding and the two scalings in use, llama3 and yarn, as inverse frequencies.

A pair of features (i, i + d/2) of a head is rotated by position * inverse_frequency_i (arXiv 2104.09864).
Scaling rules change the frequencies so that a model trained on short contexts reads longer ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rung.models.config import ROPES, Rope


def inverse_frequencies(rope: Rope, head_width: int) -> tuple[Tensor, float]:
    """`(frequencies_[d/2], factor on cos and sin)`, float32."""
    exponents = torch.arange(0, head_width, 2, dtype=torch.int64).float() / head_width
    plain = 1.0 / rope.theta**exponents
    if rope.kind == "default":
        return plain, 1.0
    if rope.kind == "linear":
        return plain / rope.parameters["factor"], 1.0
    if rope.kind == "llama3":
        return _llama3(plain, rope.parameters), 1.0
    if rope.kind == "yarn":
        return _yarn(plain, rope, head_width)
    raise ValueError(f"RoPE scaling {rope.kind!r} is none of {ROPES}; models.load leaves it to transformers")


def _llama3(plain: Tensor, parameters: dict) -> Tensor:
    """Long waves are slowed by `factor`, short ones kept, those between blended (Llama 3.1)."""
    factor, low, high = (parameters[k] for k in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = parameters["original_max_position_embeddings"] * plain / (2 * math.pi)  # in the original context
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return keep * plain + (1 - keep) * plain / factor


def _yarn(plain: Tensor, rope: Rope, head_width: int) -> tuple[Tensor, float]:
    """As llama3, but the blend is a ramp over feature index; cos and sin grow a little (arXiv 2309.00071)."""
    parameters = rope.parameters
    original = parameters["original_max_position_embeddings"]
    factor = parameters.get("factor") or parameters["max_position_embeddings"] / original

    def feature_with_turns(turns: float) -> float:
        return head_width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    first = feature_with_turns(parameters.get("beta_fast") or 32)
    last = feature_with_turns(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_width - 1)
    last = last + 0.001 if first == last else last
    slow = ((torch.arange(head_width // 2).float() - first) / (last - first)).clamp(0, 1)
    frequencies = slow * plain / factor + (1 - slow) * plain

    def magnitude(scale: float, weight: float = 1.0) -> float:
        return 1.0 if scale <= 1 else 0.1 * weight * math.log(scale) + 1.0

    attention_factor = parameters.get("attention_factor")
    if attention_factor is None:
        over, under = parameters.get("mscale"), parameters.get("mscale_all_dim")
        if over and under:
            attention_factor = magnitude(factor, over) / magnitude(factor, under)
        else:
            attention_factor = magnitude(factor)
    return frequencies, attention_factor


def rotation(
    frequencies: Tensor, factor: float, positions_N: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`cos_Nd, sin_Nd` of each position. Angles are float32: bf16 cannot tell position 257 from 256."""
    angles = positions_N[:, None].float() * frequencies.to(positions_N.device)
    angles_Nd = torch.cat((angles, angles), dim=-1)
    return (angles_Nd.cos() * factor).to(dtype), (angles_Nd.sin() * factor).to(dtype)
