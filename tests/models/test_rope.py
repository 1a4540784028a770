"""Rotary frequencies: the formulas by hand, the scalings against transformers over a grid, exact angles."""

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from rung.models.config import DecoderConfig, Rope
from rung.models.rope import inverse_frequencies, rotation


def test_plain_frequencies_by_hand():
    frequencies, factor = inverse_frequencies(Rope(10000.0), 8)
    assert frequencies.tolist() == pytest.approx([1, 0.1, 0.01, 0.001])
    assert factor == 1.0
    assert inverse_frequencies(Rope(10000.0, "linear", {"factor": 4.0}), 8)[0].tolist() == pytest.approx(
        [0.25, 0.025, 0.0025, 0.00025]
    )


def test_llama3_keeps_short_waves_slows_long_ones_and_blends_between():
    """Turns in an original context of 200 pi: 100, 10, 1, 0.1 for theta 10000 and heads of 8.

    With low 1 and high 19 the share kept of 10 turns is (10 - 1) / 18 = 1/2, so 0.1 (1 + 1/8) / 2.
    """
    parameters = dict(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=19.0, original_max_position_embeddings=200 * math.pi
    )
    frequencies, factor = inverse_frequencies(Rope(10000.0, "llama3", parameters), 8)
    assert frequencies.tolist() == pytest.approx([1, 0.1 * 9 / 16, 0.01 / 8, 0.001 / 8])
    assert factor == 1.0


GRID = [
    dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
         original_max_position_embeddings=8192),
    dict(rope_type="llama3", factor=32.0, low_freq_factor=2.0, high_freq_factor=9.0,
         original_max_position_embeddings=64),
    dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32),
    dict(rope_type="yarn", factor=40.0, original_max_position_embeddings=4096, mscale=1.0,
         mscale_all_dim=0.8),
    dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=4096, mscale=1.0),
    dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=4096, beta_fast=16.0, beta_slow=2.0),
    dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=4096, truncate=False),
    dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=4096, attention_factor=1.7),
    dict(rope_type="yarn", factor=0.5, original_max_position_embeddings=256),
    dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=4),
    dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=600, rope_theta=10.0),
    dict(rope_type="linear", factor=3.0),
]  # fmt: skip


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("head_width", [8, 64])
@pytest.mark.parametrize("parameters", GRID, ids=lambda p: " ".join(str(v) for v in p.values()))
def test_scalings_are_those_of_transformers(parameters, head_width, theta):
    config = LlamaConfig(
        hidden_size=2 * head_width, num_attention_heads=2, head_dim=head_width, max_position_embeddings=16384,
        rope_parameters={"rope_theta": theta, **parameters},
    )  # fmt: skip
    expected, expected_factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"))
    rope = DecoderConfig.from_hf(config.to_dict()).ropes[0]
    assert rope is not None
    frequencies, factor = inverse_frequencies(rope, head_width)
    torch.testing.assert_close(frequencies, expected, rtol=1e-6, atol=0)
    assert factor == pytest.approx(expected_factor)


def test_yarn_by_hand():
    """theta 10000, heads of 8, original context 200 pi, so feature i turns 100, 10, 1, 0.1 times.

    With beta_fast 10 and beta_slow 1 the ramp runs from feature 1 to 2: features 0 and 1 are kept, 2 and 3
    are divided by the factor e; cos and sin grow by 0.1 ln e + 1.
    """
    parameters = dict(
        factor=math.e,
        original_max_position_embeddings=200 * math.pi,
        beta_fast=10,
        beta_slow=1,
        truncate=False,
    )
    frequencies, factor = inverse_frequencies(Rope(10000.0, "yarn", parameters), 8)
    assert frequencies.tolist() == pytest.approx([1, 0.1, 0.01 / math.e, 0.001 / math.e], rel=1e-5)
    assert factor == pytest.approx(1.1)


def test_rotation_by_hand():
    cos, sin = rotation(torch.tensor([1.0, 0.5]), 2.0, torch.tensor([0, 3]), torch.float32)
    assert cos[0].tolist() == [2, 2, 2, 2]
    assert sin[0].tolist() == [0, 0, 0, 0]
    both = [3.0, 1.5, 3.0, 1.5]
    assert cos[1].tolist() == pytest.approx([2 * math.cos(angle) for angle in both])
    assert sin[1].tolist() == pytest.approx([2 * math.sin(angle) for angle in both])


def test_angles_of_late_positions_are_exact_in_bf16_too():
    """Position 30,001 does not exist in bf16; only the finished cosine is rounded."""
    cos, _ = rotation(torch.tensor([1.0]), 1.0, torch.tensor([30001]), torch.bfloat16)
    assert cos[0, 0].item() == pytest.approx(math.cos(30001), abs=2**-8)


def test_an_unknown_scaling_is_refused():
    with pytest.raises(ValueError, match="'dynamic' is none of"):
        inverse_frequencies(Rope(10000.0, "dynamic", {}), 8)
