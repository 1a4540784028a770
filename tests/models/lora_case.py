"""A tiny Llama and a trained adapter on it, for the tests of LoRA."""

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from rung.models.lora import adapted_layers

TOKENS = torch.arange(24).reshape(2, 12) % 50


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=50,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def trained(model: nn.Module, seed: int = 1) -> nn.Module:
    """Random adapter weights of a size that moves the logits by about as much as the base itself has."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            for tensor in (layer.lora_A, layer.lora_B):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return model


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits
