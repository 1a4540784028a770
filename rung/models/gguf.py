"""One GGUF file as a Hugging Face folder: names and values back to what they were before llama.cpp.

llama.cpp stores the same weights under other names and, for some families, other values: rows of the query
and key projections are reordered so that rotary pairs are neighbours (Llama), and norms hold weight + 1
(Gemma). Both are undone here. Quantised tensors become float32, since the dequantised numbers need more bits
than bfloat16 has; half precision stays what it is. What is not known for certain is refused.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from torch import Tensor

from rung.errors import UserError
from rung.models.folder import write_folder
from rung.models.gguf_tokenizer import build_tokenizer

PROJECTIONS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
PRE_NORM = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
POST_NORM = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
SANDWICH_NORM = {**POST_NORM, "attn_norm": "input_layernorm", "ffn_norm": "pre_feedforward_layernorm"}
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


@dataclass(frozen=True)
class Family:
    """How one `general.architecture` differs from its Hugging Face form."""

    model_type: str
    model_class: str
    norms: dict[str, str]
    rotary_neighbours: bool = False
    norm_plus_one: bool = False


FAMILIES = {
    "llama": Family("llama", "LlamaForCausalLM", PRE_NORM, rotary_neighbours=True),  # Mistral and SmolLM2 too
    "qwen2": Family("qwen2", "Qwen2ForCausalLM", PRE_NORM),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM", {**PRE_NORM, **QK_NORM}),
    "gemma2": Family("gemma2", "Gemma2ForCausalLM", SANDWICH_NORM, norm_plus_one=True),
    "gemma3": Family("gemma3_text", "Gemma3ForCausalLM", {**SANDWICH_NORM, **QK_NORM}, norm_plus_one=True),
    "olmo2": Family("olmo2", "Olmo2ForCausalLM", {**POST_NORM, **QK_NORM}),
}


@dataclass(frozen=True)
class Source:
    """An open GGUF file: its metadata as plain values, its tensors still packed."""

    file: Path
    metadata: dict[str, Any]
    tensors: dict[str, Any]

    @property
    def family(self) -> Family:
        return FAMILIES[self.metadata["general.architecture"]]

    def get(self, key: str, default: Any = None) -> Any:
        """A value under the architecture's prefix; float32 as the shortest decimal that means it."""
        value = self.metadata.get(f"{self.metadata['general.architecture']}.{key}", default)
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise UserError(f"{self.file} does not state {key}; convert the model to GGUF anew")
        return value


def convert_gguf(file: Path, folder: Path) -> None:
    """Write `file` as the Hugging Face folder `folder`; if another process did so first, keep its."""
    source = open_gguf(file)
    tokenizer = build_tokenizer(source.metadata, file)
    write_folder(folder, read_tensors(source), read_config(source), tokenizer, existing="keep")


def open_gguf(file: Path) -> Source:
    try:
        reader = GGUFReader(file)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
    except (ValueError, IndexError, OverflowError) as error:  # what a reader of broken bytes runs into
        size = file.stat().st_size
        raise UserError(
            f"{file} is truncated or no GGUF file ({size} bytes; {error}); copy or fetch it again"
        ) from error
    if metadata.get("split.count", 1) > 1:
        raise UserError(
            f"{file} is one of {metadata['split.count']} parts; join them first (llama-gguf-split --merge)"
        )
    if metadata.get("general.architecture") not in FAMILIES:
        raise UserError(
            f"{file} holds a {metadata.get('general.architecture')!r} model; of GGUF rung reads "
            f"{', '.join(FAMILIES)}. Use the model's safetensors release instead"
        )
    return Source(file, metadata, {tensor.name: tensor for tensor in reader.tensors})


def read_tensors(source: Source) -> dict[str, Tensor]:
    """Every tensor under its Hugging Face name, with its Hugging Face value."""
    names = {name: hugging_face_name(source, name) for name in source.tensors if name != "rope_freqs.weight"}
    return {target: _value(source, name, target) for name, target in names.items()}


def hugging_face_name(source: Source, name: str) -> str:
    if name in OUTSIDE:
        return OUTSIDE[name]
    block, _, rest = name.removeprefix("blk.").partition(".")
    leaf, _, suffix = rest.rpartition(".")
    inside = {**PROJECTIONS, **source.family.norms}
    if not (name.startswith("blk.") and block.isdigit() and leaf in inside and suffix in ("weight", "bias")):
        raise UserError(
            f"{source.file} holds a tensor {name}, which a {source.metadata['general.architecture']} model "
            "known to rung has not; use the model's safetensors release instead"
        )
    return f"model.layers.{block}.{inside[leaf]}.{suffix}"


def _value(source: Source, name: str, target: str) -> Tensor:
    packed = source.tensors[name]
    try:
        values = torch.from_numpy(np.array(dequantize(packed.data, packed.tensor_type), dtype=np.float32))
    except NotImplementedError as error:
        raise UserError(
            f"{source.file} stores {name} as {packed.tensor_type.name}, which cannot be dequantised; "
            "use a Q4, Q5, Q6, Q8 or half-precision file of the model"
        ) from error
    if source.family.rotary_neighbours and ".attn_q." in name:
        values = _halves(values, source.need("attention.head_count"))
    if source.family.rotary_neighbours and ".attn_k." in name:
        values = _halves(values, source.get("attention.head_count_kv") or source.need("attention.head_count"))
    if source.family.norm_plus_one and target.endswith("norm.weight"):
        values = values - 1
    return values.to(_half_dtype(packed) or torch.float32)


def _halves(rows: Tensor, heads: int) -> Tensor:
    """Rows of each head from neighbours (a0 b0 a1 b1 ..) to halves (a0 a1 .. b0 b1 ..)."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(rows.shape)


def _half_dtype(packed: Any) -> torch.dtype | None:
    kinds = {GGMLQuantizationType.F16: torch.float16, GGMLQuantizationType.BF16: torch.bfloat16}
    return kinds.get(packed.tensor_type)


def read_config(source: Source) -> dict[str, Any]:
    """The config.json of the model, completed by transformers with the family's defaults."""
    from transformers import AutoConfig

    heads, width = source.need("attention.head_count"), source.need("embedding_length")
    head_width = source.get("attention.key_length") or source.get("rope.dimension_count") or width // heads
    get, ids = source.get, source.metadata.get
    ends = [ids(f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot", "eom")]
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    fields = {
        "vocab_size": int(source.tensors["token_embd.weight"].shape[1]),
        "hidden_size": width,
        "intermediate_size": source.need("feed_forward_length"),
        "num_hidden_layers": source.need("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv") or heads,
        "head_dim": head_width,
        "max_position_embeddings": source.need("context_length"),
        "rms_norm_eps": source.need("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "rope_parameters": rope_parameters(source, head_width),
        "bos_token_id": ids("tokenizer.ggml.bos_token_id"),
        "pad_token_id": ids("tokenizer.ggml.padding_token_id"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "attention_bias": "blk.0.attn_q.bias" in source.tensors,
    }
    model_type = source.family.model_type
    if model_type.startswith("gemma"):
        fields |= _gemma_fields(source, width // heads, head_width)
    elif get("attention.sliding_window"):
        raise UserError(
            f"{source.file} uses sliding windows, which rung does not read from this kind of GGUF file"
        )
    config = json.loads(AutoConfig.for_model(model_type, **fields).to_json_string())
    return {**config, "architectures": [source.family.model_class]}


def _gemma_fields(source: Source, share: int, head_width: int) -> dict[str, Any]:
    """The 27B models scale attention by width / heads; the file does not say so, its depth tells."""
    largest = {"gemma2": 46, "gemma3": 62}[source.metadata["general.architecture"]]
    return {
        "sliding_window": source.need("attention.sliding_window"),
        "query_pre_attn_scalar": share if source.need("block_count") == largest else head_width,
        "attn_logit_softcapping": source.get("attn_logit_softcapping"),
        "final_logit_softcapping": source.get("final_logit_softcapping"),
    }


def rope_parameters(source: Source, head_width: int) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": source.get("rope.freq_base", 10000.0)}
    scaling = {
        key.split(".rope.scaling.")[1]: source.get(key.split(".", 1)[1])
        for key in source.metadata
        if ".rope.scaling." in key
    }
    kind, factor = scaling.pop("type", "none"), scaling.pop("factor", None)
    original, _ = scaling.pop("original_context_length", None), scaling.pop("finetuned", None)
    if scaling or kind not in ("none", "linear", "yarn"):
        raise UserError(f"{source.file} scales RoPE by {kind} {scaling}, which rung does not read from GGUF")
    if kind != "none":
        rope |= {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = original
    if "rope_freqs.weight" in source.tensors:
        rope |= llama3_scaling(source, rope["rope_theta"], head_width)
    if source.family.model_type == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": source.get("rope.freq_base_swa", 10000.0)}
        return {"full_attention": rope, "sliding_attention": local}
    return rope


def llama3_scaling(source: Source, theta: float, head_width: int) -> dict[str, Any]:
    """The rule behind a table of frequency divisors, as Llama 3.1 and 3.2 have it; other tables are refused.

    Wavelengths under original / 4 stay, over original are divided by `factor`, in between blended.
    """
    table = source.tensors["rope_freqs.weight"].data.astype(np.float64)
    factor, original, low, high = round(float(table.max()), 4), 8192, 1.0, 4.0
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_width, 2) / head_width)
    blend = ((original / wavelength - low) / (high - low)).clip(0, 1)
    if table.shape != blend.shape or not np.allclose(table, 1 / ((1 - blend) / factor + blend), rtol=1e-3):
        raise UserError(
            f"{source.file} scales RoPE by a table (rope_freqs.weight) that no rule known to rung gives"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
