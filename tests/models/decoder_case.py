"""Tiny random checkpoints of every family and variant the decoder runs, made and judged by transformers."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rung.models.decoder import Decoder, Documents
from rung.models.folder import read_config
from rung.models.load import load_model

VOCABULARY, CONTEXT = 97, 128
SIZES = dict(
    vocab_size=VOCABULARY, hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=6,
    num_key_value_heads=2, max_position_embeddings=CONTEXT, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
LLAMA3 = dict(
    rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)  # fmt: skip
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32)
EXPERTS = dict(num_experts=6, num_experts_per_tok=2)
SLIDING = dict(use_sliding_window=True, sliding_window=6)
TWO_ROPES = dict(
    sliding_attention=dict(rope_type="default", rope_theta=100.0),
    full_attention=dict(rope_type="linear", rope_theta=5000.0, factor=4.0),
)
MIXED = ["sliding_attention", "full_attention"] * 2

# name -> family, what differs from its defaults. Windows are far shorter than the 40 tokens of the tests.
CASES: dict[str, tuple[str, dict]] = {
    "llama": ("llama", dict(head_dim=8)),
    "llama biases": ("llama", dict(attention_bias=True, mlp_bias=True)),
    "llama tied llama3": ("llama", dict(tie_word_embeddings=True, rope_parameters=LLAMA3)),
    "llama yarn": ("llama", dict(rope_parameters=YARN)),
    "llama linear wide heads": (
        "llama",
        dict(head_dim=16, rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=500.0)),
    ),
    "mistral": ("mistral", dict(sliding_window=5, head_dim=8)),
    "mistral without window": ("mistral", dict(sliding_window=None)),
    "qwen2": ("qwen2", {}),
    "qwen2 window": ("qwen2", dict(**SLIDING, max_window_layers=2)),
    "qwen3": ("qwen3", dict(head_dim=16)),
    "qwen3 biases window": ("qwen3", dict(head_dim=8, attention_bias=True, **SLIDING, max_window_layers=1)),
    "smollm3": ("smollm3", dict(no_rope_layer_interval=2)),
    "smollm3 window": ("smollm3", dict(no_rope_layers=[1, 0, 0, 1], **SLIDING, layer_types=MIXED)),
    "olmo2": ("olmo2", dict(attention_bias=True)),
    "gemma": ("gemma", dict(head_dim=16)),
    "gemma legacy gelu": ("gemma", dict(head_dim=8, hidden_act="gelu")),
    "gemma2": ("gemma2", dict(head_dim=8, sliding_window=6, query_pre_attn_scalar=24)),
    "gemma2 hard caps": (
        "gemma2",
        dict(
            head_dim=8, sliding_window=6, query_pre_attn_scalar=1, attn_logit_softcapping=1.5,
            final_logit_softcapping=2.0, layer_types=MIXED[::-1],
        ),
    ),
    "gemma3_text": (
        "gemma3_text",
        dict(
            head_dim=8, sliding_window=6, query_pre_attn_scalar=24, layer_types=MIXED,
            rope_parameters=TWO_ROPES,
        ),
    ),
    "gemma3_text pattern": (
        "gemma3_text",
        dict(head_dim=8, sliding_window=6, query_pre_attn_scalar=24, sliding_window_pattern=3),
    ),
    "qwen3_moe": (
        "qwen3_moe",
        dict(head_dim=8, moe_intermediate_size=24, norm_topk_prob=True, mlp_only_layers=[1], **EXPERTS),
    ),
    "qwen3_moe sparse step window": (
        "qwen3_moe",
        dict(head_dim=8, moe_intermediate_size=24, decoder_sparse_step=2, **SLIDING, **EXPERTS),
    ),
    "olmoe": ("olmoe", dict(clip_qkv=0.5, **EXPERTS)),
    "olmoe normalised": ("olmoe", dict(norm_topk_prob=True, attention_bias=True, **EXPERTS)),
}  # fmt: skip


def reference(case: str):
    """A transformers model whose every weight is random, norms and biases too, so that no mistake hides."""
    family, changes = CASES[case]
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def opened(model, folder) -> Decoder:
    """The decoder on what transformers saved."""
    model.save_pretrained(folder)
    decoder = load_model(folder)
    assert isinstance(decoder, Decoder)
    assert decoder.config.hf == read_config(folder)
    return decoder.eval()


def tokens(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed))


def packed(decoder, documents: list[torch.Tensor]) -> torch.Tensor:
    """Hidden states of documents laid end to end."""
    lengths = tuple(len(document) for document in documents)
    positions = torch.cat([torch.arange(length) for length in lengths])
    return decoder(torch.cat(documents), positions, Documents(lengths)).states_ND
