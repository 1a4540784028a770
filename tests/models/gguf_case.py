"""Tiny GGUF files, written the way llama.cpp writes them.

The tensor names come from the `gguf` package's own table and not from rung's, and the two changes of values
(rotary neighbours, norms plus one) are spelled out here index by index.
"""

from pathlib import Path

import gguf
import torch
from folder_case import TEMPLATE
from tokenizers import pre_tokenizers

SPECIAL = ["<pad>", "<s>", "<|im_end|>", "<|im_start|>"]
PLAIN = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "qz"]  # GGUF has no empty lists: one merge


def neighbours(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """In each head, row i of the first half is followed by row i of the second half."""
    width = rows.shape[0] // heads
    order = [
        h * width + half * width // 2 + i for h in range(heads) for i in range(width // 2) for half in (0, 1)
    ]
    return rows[order]


def write_gguf(
    path: Path, architecture: str, model=None, tokenizer=None, extra=None, quantise=None, tensors=None
):
    """`quantise` maps a tensor's name to a GGML type; `extra` maps metadata keys to values."""
    writer = gguf.GGUFWriter(path, architecture)
    if model is not None:
        _metadata(writer, model.config)
        tensors = {**_tensors(model, architecture), **(tensors or {})}
    for key, value in (extra or {}).items():
        add = {float: writer.add_float32, str: writer.add_string, bool: writer.add_bool}.get(
            type(value), writer.add_uint32
        )
        add(key.format(arch=architecture), value)
    _tokenizer(writer, **(tokenizer or {}))
    for name, tensor in (tensors or {}).items():
        kind = (quantise or {}).get(name, gguf.GGMLQuantizationType.F32)
        packed = gguf.quantize(tensor.detach().float().numpy(), kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(writer, config):
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    writer.add_key_length(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    if config.model_type.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
        if config.model_type == "gemma2":
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
            writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _tensors(model, architecture):
    config = model.config
    names = gguf.get_tensor_name_map(
        next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture), config.num_hidden_layers
    )
    out = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if architecture == "llama" and "q_proj" in name:
            tensor = neighbours(tensor, config.num_attention_heads)
        if architecture == "llama" and "k_proj" in name:
            tensor = neighbours(tensor, config.num_key_value_heads)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            tensor = tensor + 1
        out[names.get_name(name, try_suffixes=(".weight", ".bias"))] = tensor
    return out


def _tokenizer(writer, pre="gpt-2", tokens=None, types=None, merges=(), ids=None, add_bos=None, model="gpt2"):
    tokens = tokens or PLAIN
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types or [3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(list(merges) or ["q z"])
    ids = ids or {"bos": 1, "eos": 2, "pad": 0}
    for name, index in ids.items():
        getattr(writer, f"add_{name}_token_id")(index)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.add_chat_template(TEMPLATE)
