"""The decoder, top to bottom: one forward for training, scoring and sampling, one class for every family.

Tokens of all documents lie end to end in one axis N; who sees whom is decided by `attend`, a function the
caller passes in (documents while training, a key-value cache while sampling), so the model never knows
which of the two it is doing. Parameter names are those of Hugging Face checkpoints: a state dict is a
checkpoint. Which parts a family uses stands in `config.py`, the parts in `parts.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rung.kernels import invariant
from rung.kernels.attention import document_spans, packed_attention
from rung.kernels.elementwise import rotate
from rung.kernels.linear import Linear, multiply
from rung.models.config import DecoderConfig, Rope
from rung.models.parts import MLP, DyT, MixtureOfExperts, RMSNorm
from rung.models.rope import inverse_frequencies, rotation

NORMS = {"rmsnorm": RMSNorm, "dyt": DyT}


class Attend(Protocol):
    """Who sees whom: queries, keys and values of N tokens of one layer -> `[N, H, d]`."""

    def __call__(
        self, layer: int, q_NHd: Tensor, k_NKd: Tensor, v_NKd: Tensor, *, scale: float,
        window: int | None, softcap: float | None,
    ) -> Tensor: ...  # fmt: skip


@dataclass(frozen=True)
class Documents:
    """Every token sees its own document up to itself, and the whole document that one continues."""

    lengths: tuple[int, ...]
    parents: tuple[int, ...] = ()
    invariant: bool = False  # to the bit the same whatever else is in the batch (kernels/invariant.py)

    def __call__(self, layer, q_NHd, k_NKd, v_NKd, *, scale, window, softcap) -> Tensor:
        attention = document_by_document if self.invariant else packed_attention
        return attention(
            q_NHd, k_NKd, v_NKd, self.lengths, self.parents, scale=scale, window=window, softcap=softcap
        )


def document_by_document(q_NHd, k_NKd, v_NKd, lengths, parents, *, scale, window, softcap) -> Tensor:
    parts = []
    for own, trunk in document_spans(lengths, parents):
        k_TKd, v_TKd = (torch.cat([x[slice(*trunk)], x[slice(*own)]]) for x in (k_NKd, v_NKd))
        parts.append(invariant.document_attention(q_NHd[slice(*own)], k_TKd, v_TKd, scale, window, softcap))
    return torch.cat(parts)


def _without_padding(attend: Attend, tokens: int) -> Attend:
    """Padding takes part in products only; it neither sees nor is seen."""

    def attend_tokens(layer, q_NHd, k_NKd, v_NKd, *, scale, window, softcap) -> Tensor:
        q, k, v = q_NHd[:tokens], k_NKd[:tokens], v_NKd[:tokens]
        return invariant.pad_rows(attend(layer, q, k, v, scale=scale, window=window, softcap=softcap))

    return attend_tokens


class Hidden(NamedTuple):
    states_ND: Tensor  # after the final norm: what the language-model head reads
    router_logits: tuple[Tensor, ...] = ()  # one [N, E] per sparse layer


class SoftmaxAttention(nn.Module):
    """Grouped-query attention: H query heads share K key-value heads (arXiv 2305.13245)."""

    def __init__(self, config: DecoderConfig, layer: int):
        super().__init__()
        self.config, self.layer, self.window = config, layer, config.windows[layer]
        q_width, kv_width = config.heads * config.head_width, config.kv_heads * config.head_width
        self.q_proj = Linear(config.width, q_width, bias=config.qkv_bias)
        self.k_proj = Linear(config.width, kv_width, bias=config.qkv_bias)
        self.v_proj = Linear(config.width, kv_width, bias=config.qkv_bias)
        self.o_proj = Linear(q_width, config.width, bias=config.output_bias)
        if config.qk_norm:
            per_head = config.qk_norm == "head"
            norm = partial(RMSNorm, epsilon=config.norm_epsilon, offset=config.norm_offset)
            self.q_norm = norm(config.head_width if per_head else q_width)
            self.k_norm = norm(config.head_width if per_head else kv_width)

    def forward(self, x_ND: Tensor, rotary: tuple[Tensor, Tensor] | None, attend: Attend) -> Tensor:
        c = self.config
        q, k, v = self.q_proj(x_ND), self.k_proj(x_ND), self.v_proj(x_ND)
        if c.qk_norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        if c.qkv_clip is not None:
            q, k, v = (y.clamp(-c.qkv_clip, c.qkv_clip) for y in (q, k, v))
        q_NHd, k_NKd, v_NKd = (y.unflatten(-1, (-1, c.head_width)) for y in (q, k, v))
        if c.qk_norm == "head":
            q_NHd, k_NKd = self.q_norm(q_NHd), self.k_norm(k_NKd)
        if rotary is not None:
            q_NHd, k_NKd = rotate(q_NHd, *rotary), rotate(k_NKd, *rotary)
        out_NHd = attend(
            self.layer, q_NHd, k_NKd, v_NKd, scale=c.scale, window=self.window, softcap=c.attention_softcap
        )
        return self.o_proj(out_NHd.flatten(1))


def add(stream_ND: Tensor, update_ND: Tensor) -> Tensor:
    return stream_ND + update_ND


MIXERS: dict[str, Callable[[DecoderConfig, int], nn.Module]] = {"softmax": SoftmaxAttention}
RESIDUALS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"add": add}


class Layer(nn.Module):
    """Mix tokens, then transform each; either may be normed before (Llama), after (OLMo2) or both (Gemma)."""

    def __init__(self, config: DecoderConfig, layer: int):
        super().__init__()
        self.self_attn = MIXERS[config.mixer](config, layer)
        experts = config.experts[layer]
        dense = MLP(config.width, config.mlp_width, config.activation, config.mlp_bias)
        self.mlp = dense if experts is None else MixtureOfExperts(config, experts)
        self.norm_names, self.residual = config.norm_names, RESIDUALS[config.residual]
        for name in filter(None, config.norm_names):
            setattr(self, name, NORMS[config.norm](config.width, config.norm_epsilon, config.norm_offset))

    def normed(self, place: int, x_ND: Tensor) -> Tensor:
        name = self.norm_names[place]
        return x_ND if name is None else getattr(self, name)(x_ND)

    def forward(self, x_ND: Tensor, rotary, attend: Attend) -> tuple[Tensor, Tensor | None]:
        mixed_ND = self.self_attn(self.normed(0, x_ND), rotary, attend)
        x_ND = self.residual(x_ND, self.normed(1, mixed_ND))
        update_ND, router_logits = self.mlp(self.normed(2, x_ND))
        return self.residual(x_ND, self.normed(3, update_ND)), router_logits


class Trunk(nn.Module):
    """Embedding, layers, final norm: everything below the head (`model.` in a checkpoint)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.layers))
        self.norm = NORMS[config.norm](config.width, config.norm_epsilon, config.norm_offset)


class Decoder(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        if not config.tied:
            self.lm_head = Linear(config.width, config.vocabulary, bias=False)
        self.checkpointing = False  # recompute each layer in backward instead of keeping its activations
        self.batch_invariant = False  # a token's numbers do not depend on the batch (kernels/invariant.py)
        self.frequencies: dict[tuple[int, torch.device], tuple[Tensor, float]] = {}  # of each rotary rule
        self.packed_head: Tensor | None = None  # the head's weight as a sampler wants it (kernels/linear.py)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    @property
    def head_weight(self) -> Tensor:
        return self.model.embed_tokens.weight if self.config.tied else self.lm_head.weight

    @property
    def head_bias(self) -> None:
        """No family here has one; models of the transformers fallback may."""
        return None

    def forward(
        self,
        token_ids_N: Tensor,
        positions_N: Tensor,
        attend: Attend,
        perturb: Callable[[Tensor], Tensor] | None = None,
    ) -> Hidden:
        """Hidden states of N tokens. `perturb` may change the embeddings on their way in (NEFTune does)."""
        c, tokens = self.config, len(token_ids_N)
        if self.batch_invariant:
            token_ids_N, positions_N = (invariant.pad_rows(x_N) for x_N in (token_ids_N, positions_N))
            attend = _without_padding(attend, tokens)
        x_ND = self.model.embed_tokens(token_ids_N)
        if c.embedding_scale != 1.0:
            x_ND = x_ND * torch.tensor(c.embedding_scale, dtype=x_ND.dtype)
        if perturb is not None:
            x_ND = perturb(x_ND)
        rotaries = self._rotaries(positions_N, x_ND.dtype)
        router_logits = []
        for layer, rope in zip(self.model.layers, c.ropes, strict=True):
            run = (
                partial(checkpoint, layer, use_reentrant=False)
                if self.checkpointing and self.training
                else layer
            )
            x_ND, logits = run(x_ND, rotaries.get(id(rope)), attend)
            if logits is not None:
                router_logits.append(logits)
        return Hidden(self.model.norm(x_ND)[:tokens], tuple(logits[:tokens] for logits in router_logits))

    def logits(self, states_ND: Tensor) -> Tensor:
        """`[.., V]` for a few positions; training never calls this, see `kernels.linear_logprob`."""
        if self.packed_head is not None and not torch.is_grad_enabled():
            logits_NV = multiply(states_ND, self.packed_head)
        else:
            logits_NV = nn.functional.linear(states_ND, self.head_weight)
        cap = self.config.logit_softcap
        return logits_NV if cap is None else cap * torch.tanh(logits_NV / cap)

    def _rotaries(self, positions_N: Tensor, dtype: torch.dtype) -> dict[int, tuple[Tensor, Tensor]]:
        """cos and sin once per distinct rule, not once per layer."""
        distinct: dict[int, Rope] = {id(rope): rope for rope in self.config.ropes if rope is not None}
        return {
            key: rotation(*self._frequencies(rope, positions_N.device), positions_N, dtype)
            for key, rope in distinct.items()
        }

    def _frequencies(self, rope: Rope, device: torch.device) -> tuple[Tensor, float]:
        """Kept where they are used: a CUDA graph may not copy from the processor's memory."""
        key = self.config.ropes.index(rope), device
        if key not in self.frequencies:
            frequencies, factor = inverse_frequencies(rope, self.config.head_width)
            self.frequencies[key] = frequencies.to(device), factor
        return self.frequencies[key]
