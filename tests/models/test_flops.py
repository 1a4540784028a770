"""Operations of a step, counted by hand and by PyTorch's own counter."""

import pytest
import torch
from decoder_case import CASES, SIZES, opened, packed, reference, tokens
from torch.utils.flop_counter import FlopCounterMode

from rung.models.config import DecoderConfig
from rung.models.flops import training_flops


def config_of(case):
    family, changes = CASES[case]
    return DecoderConfig.from_hf({**SIZES, **changes, "model_type": family})


def test_by_hand():
    """Width 48, 6 and 2 heads of 8: 48 * 8 * 16 = 6144; MLP 3 * 48 * 80 = 11520; 4 layers; head 97 * 48.

    Attention reads 10 / 2 earlier tokens on average, twice, in 6 heads of 8: 480.
    """
    flops = training_flops(config_of("qwen2"), tokens=7, trained=2, mean_context=10)
    assert flops == 6 * (7 * 4 * (6144 + 11520 + 480) + 2 * 97 * 48)


@pytest.mark.parametrize("case", ["llama biases", "gemma2", "olmo2", "qwen3_moe"])
def test_weights_met_are_those_pytorch_counts(case, tmp_path):
    """Forward and backward of a document, less attention, is three times a forward of 2 per weight met."""
    decoder = opened(reference(case), tmp_path)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder.logits(packed(decoder, [tokens(16)]))
    attention = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
    expected = 3 * (counter.get_total_flops() - attention)
    assert training_flops(decoder.config, tokens=16, trained=16, mean_context=0) == expected
