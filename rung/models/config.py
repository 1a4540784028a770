"""What a decoder is made of, read once from a Hugging Face config; the decoder itself knows no family names.

Every listed family is one decoder with different parts switched on. `from_hf` is the only place that
knows which family has which, so a new checkpoint family is a few lines here and nothing elsewhere.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

from rung.errors import UserError
from rung.kernels.elementwise import ACTIVATIONS

PRE_NORM = ("input_layernorm", None, "post_attention_layernorm", None)
POST_NORM = (None, "post_attention_layernorm", None, "post_feedforward_layernorm")
SANDWICH_NORM = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2"),
    *("gemma", "gemma2", "gemma3_text", "qwen3_moe", "olmoe"),
)
ROPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of one kind of layer: base, scaling rule and its numbers as in the checkpoint."""

    theta: float
    kind: str = "default"  # one of ROPES
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the feed-forward: each token goes to `top_k` of `count` experts."""

    count: int
    top_k: int
    width: int
    normalise: bool  # divide the k chosen probabilities by their sum


@dataclass(frozen=True)
class DecoderConfig:
    family: str
    vocabulary: int
    width: int  # D
    layers: int
    heads: int  # H
    kv_heads: int  # K
    head_width: int  # d
    mlp_width: int  # F
    context: int
    norm_epsilon: float
    ropes: tuple[Rope | None, ...]  # one per layer; None: the layer sees no positions
    windows: tuple[int | None, ...]  # one per layer; a token sees itself and window - 1 before it
    experts: tuple[Experts | None, ...]  # one per layer
    activation: str = "silu"
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: str = ""  # "", "head" (each head on its own), "full" (before the split into heads)
    qkv_clip: float | None = None
    norm_names: tuple[str | None, ...] = PRE_NORM  # before mixer, after mixer, before MLP, after MLP
    norm_offset: float = 0.0  # Gemma stores weight - 1
    embedding_scale: float = 1.0
    attention_scale: float | None = None  # default head_width ** -0.5
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    norm: str = "rmsnorm"
    residual: str = "add"
    mixer: str = "softmax"
    hf: dict[str, Any] = field(default_factory=dict, repr=False)  # the config.json this came from

    @property
    def scale(self) -> float:
        return self.head_width**-0.5 if self.attention_scale is None else self.attention_scale

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> DecoderConfig:
        """Read a config.json; transformers fills in the family's defaults and the old spellings of RoPE."""
        family, full = config["model_type"], _filled_in(config)

        def get(key: str, default: Any = None) -> Any:
            return getattr(full, key, default)

        heads, width = get("num_attention_heads"), get("hidden_size")
        gemma = family.startswith("gemma")
        biased = family not in ("qwen2", "mistral") and bool(get("attention_bias", False))
        return cls(
            family=family,
            vocabulary=get("vocab_size"),
            width=width,
            layers=get("num_hidden_layers"),
            heads=heads,
            kv_heads=get("num_key_value_heads") or heads,
            head_width=get("head_dim") or width // heads,
            mlp_width=get("intermediate_size"),
            context=get("max_position_embeddings"),
            norm_epsilon=get("rms_norm_eps"),
            ropes=_ropes(full, family),
            windows=_windows(full, family),
            experts=_experts(full, family),
            activation=get("hidden_activation" if family in ("gemma2", "gemma3_text") else "hidden_act"),
            tied=bool(get("tie_word_embeddings", False)),
            qkv_bias=family == "qwen2" or biased,
            output_bias=biased,
            mlp_bias=bool(get("mlp_bias", False)),
            qk_norm={"qwen3": "head", "qwen3_moe": "head", "gemma3_text": "head"}.get(
                family, "full" if family.startswith("olmo") else ""
            ),
            qkv_clip=get("clip_qkv") if family == "olmoe" else None,
            norm_names={"olmo2": POST_NORM, "gemma2": SANDWICH_NORM, "gemma3_text": SANDWICH_NORM}.get(
                family, PRE_NORM
            ),
            norm_offset=1.0 if gemma else 0.0,
            embedding_scale=math.sqrt(width) if gemma else 1.0,
            attention_scale=get("query_pre_attn_scalar") ** -0.5 if get("query_pre_attn_scalar") else None,
            attention_softcap=get("attn_logit_softcapping"),
            logit_softcap=get("final_logit_softcapping"),
            norm=config.get("rung_norm", "rmsnorm"),
            residual=config.get("rung_residual", "add"),
            mixer=config.get("rung_mixer", "softmax"),
            hf=config,
        )


def supported(config: dict[str, Any]) -> bool:
    """Whether the decoder has every part that a config.json asks for. If not, transformers runs the model."""
    if config["model_type"] not in FAMILIES or config.get("use_bidirectional_attention"):
        return False
    read = DecoderConfig.from_hf(config)
    ropes = [rope for rope in read.ropes if rope is not None]
    whole_heads = all(rope.parameters.get("partial_rotary_factor", 1.0) == 1.0 for rope in ropes)
    return read.activation in ACTIVATIONS and whole_heads and all(rope.kind in ROPES for rope in ropes)


def _filled_in(config: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    given = copy.deepcopy({key: value for key, value in config.items() if key != "model_type"})
    try:  # it checks what a stranger's file says, and names no file
        return AutoConfig.for_model(config["model_type"], **given)
    except Exception as error:
        raise UserError(
            f"the config.json of this {config['model_type']} model cannot be read: {error}. "
            "Fetch or export the model again, or correct that value"
        ) from error


def _ropes(full: Any, family: str) -> tuple[Rope | None, ...]:
    def rope(parameters: dict[str, Any]) -> Rope:
        rest = {k: v for k, v in parameters.items() if k not in ("rope_theta", "rope_type", "type")}
        rest.setdefault("max_position_embeddings", full.max_position_embeddings)
        return Rope(parameters["rope_theta"], parameters.get("rope_type", "default"), rest)

    given = full.rope_parameters
    if family == "gemma3_text":
        by_kind = {kind: rope(parameters) for kind, parameters in given.items()}
        return tuple(by_kind[kind] for kind in full.layer_types)
    shared = rope(given)
    used = getattr(full, "no_rope_layers", None) or [1] * full.num_hidden_layers
    return tuple(shared if use else None for use in used)


def _windows(full: Any, family: str) -> tuple[int | None, ...]:
    window = getattr(full, "sliding_window", None)
    if family in ("mistral", "qwen3_moe"):
        return (window,) * full.num_hidden_layers
    kinds = getattr(full, "layer_types", None) or ["full_attention"] * full.num_hidden_layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _experts(full: Any, family: str) -> tuple[Experts | None, ...]:
    if family not in ("qwen3_moe", "olmoe"):
        return (None,) * full.num_hidden_layers
    width = full.moe_intermediate_size if family == "qwen3_moe" else full.intermediate_size
    sparse = Experts(full.num_experts, full.num_experts_per_tok, width, bool(full.norm_topk_prob))
    dense = set(getattr(full, "mlp_only_layers", None) or ())
    every = getattr(full, "decoder_sparse_step", 1)
    return tuple(
        None if layer in dense or (layer + 1) % every else sparse for layer in range(full.num_hidden_layers)
    )
