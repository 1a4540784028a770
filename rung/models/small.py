"""A small decoder from nothing, with a tokenizer of single characters: for experiments that fit into minutes.

Nothing is borrowed, so everything the model knows is what it was shown: the way to ask what pre-training must
have put there before reinforcement learning can amplify it. The folder is an ordinary Hugging Face checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rung.errors import UserError
from rung.models.config import DecoderConfig
from rung.models.decoder import Decoder
from rung.models.folder import write_folder

PAD, END = "<|pad|>", "<|end|>"
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}<|end|>"
    "{% else %}{{ m['content'] }}\n{% endif %}{% endfor %}"
)


def write_small_model(
    folder: Path,
    characters: str,
    *,
    layers: int = 4,
    width: int = 192,
    heads: int = 6,
    context: int = 256,
    seed: int = 0,
    phrases: Sequence[str] = (),
) -> Path:
    """A random Llama-shaped model whose tokens are these characters. 4 layers of 192 are 1.8 M weights.

    Each of `phrases` is one token too, so that what all questions have in common costs next to nothing. The chat
    template writes a message and a line break, and after that the answer and its end.
    """
    missing = sorted(set("\n") - set(characters))
    tokens = [PAD, END, *missing, *dict.fromkeys(characters), *dict.fromkeys(phrases)]
    if width % heads:
        raise UserError(f"a width of {width} cannot be shared by {heads} heads; take a multiple of {heads}")
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(tokens),
        "hidden_size": width, "intermediate_size": 8 * width // 3, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": width // heads,
        "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
        "attention_bias": False, "mlp_bias": False, "torch_dtype": "float32",
    }  # fmt: skip
    torch.manual_seed(seed)
    model = Decoder(DecoderConfig.from_hf(config))
    write_folder(folder, model.state_dict(), config, character_tokenizer(tokens, phrases))
    return folder


def character_tokenizer(tokens: list[str], phrases: Sequence[str] = ()) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=PAD))
    pieces = [re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True)]
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*pieces, r"[\s\S]"])), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([PAD, END])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=PAD, chat_template=TEMPLATE
    )
