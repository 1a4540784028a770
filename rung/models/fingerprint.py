"""A short name for weights as they are in memory: what a rollout carries and a weight transfer is checked with."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprint(model: nn.Module, *, trained_only: bool = False) -> str:
    """16 hexadecimal digits of BLAKE2b over every parameter's name and bits, in the order of the names."""
    found = hashlib.blake2b(digest_size=8)
    for name, parameter in sorted(model.named_parameters()):
        if trained_only and not parameter.requires_grad:
            continue
        bits = parameter.detach().cpu().contiguous().view(INTEGERS[parameter.element_size()])
        found.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        found.update(bits.numpy().tobytes())
    return found.hexdigest()
