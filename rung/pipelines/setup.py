"""What every training command needs before the first step: a device, a dtype, a model, a way to save it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rung.errors import UserError
from rung.machine import cpu_features
from rung.models.folder import (
    check_vocabulary,
    digest,
    read_config,
    read_generation_config,
    read_tensors,
    write_files,
)
from rung.models.hub import load_tokenizer, resolve
from rung.models.load import load_model
from rung.models.lora import add_adapter, save_adapter
from rung.settings import Lora
from rung.train import State

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Subject:
    """The model being trained, and how it is written."""

    model: nn.Module
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    digest: str  # of the weights it starts from
    write: Callable[[Path], None]  # the Hugging Face or PEFT files, into an empty folder


def choose_device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UserError(f"--device {wanted} is not a device. Write cpu, cuda or cuda:0.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {wanted} was asked for, but this torch sees no GPU. Write --device cpu.")
    return device


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it natively; a CPU without is faster and exact in fp32."""
    if wanted != "auto":
        return DTYPES[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    native = {"avx512_bf16", "amx_bf16"} & set(cpu_features())
    return torch.bfloat16 if native else torch.float32


def start_masters(state: State, name: str, part: str = "") -> None:
    """Give the float32 masters the checkpoint's own values, not those that bf16 rounded.

    `part` is how the names of these weights begin in the module being trained, where it holds several models.

    A master that starts on bf16's grid needs many small steps before its compute weight moves at all; one
    that starts where the checkpoint left it is anywhere between two grid points, so some weights move at
    every step and the rounding is fair on average.
    """
    stored = {part + key: tensor for key, tensor in read_tensors(resolve(name)).items()}
    masters = state.masters.weights
    own = {key for key in masters if key.startswith(part)}
    if own <= stored.keys():  # not for adapters, which start in float32
        state.masters.load({**masters, **{key: stored[key] for key in stored.keys() & masters.keys()}})


def load_subject(
    name: str, *, precision: str, device: str, lora: Lora, recompute: bool, seed: int, start: str = ""
) -> Subject:
    """The model `name` on its device, with adapters where asked for. `start` holds weights to continue from."""
    where = choose_device(device)
    dtype = choose_dtype(precision, where)
    tokenizer = load_tokenizer(name)
    source = resolve(name)
    if (source / "adapter_config.json").exists():
        raise UserError(
            f"{name} is an adapter, and training continues from a whole model. "
            f"Fold it into its base first: rung merge-adapter {name} --out MODEL"
        )
    check_vocabulary(tokenizer, read_config(source))
    model = load_model(start if start and not lora.rank else name, dtype, where)
    started = digest(read_tensors(source))  # as stored, so it does not depend on the compute dtype
    model.checkpointing = recompute
    if lora.rank and not start:
        add_adapter(model, lora, seed)

    def write(folder: Path) -> None:
        if lora.rank:
            save_adapter(model, folder, lora, name, started)
            tokenizer.save_pretrained(folder)
            return
        tensors = {key: value.detach().cpu() for key, value in model.state_dict().items()}
        write_files(folder, tensors, model.config.hf, tokenizer, read_generation_config(source) or None)

    return Subject(model, tokenizer, where, dtype, started, write)
