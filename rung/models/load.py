"""From a name to a model that trains and samples: the decoder where it has the parts, else the fallback."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from rung.models.config import DecoderConfig, supported
from rung.models.decoder import Decoder
from rung.models.fallback import Model, TransformersDecoder
from rung.models.folder import load_into, read_config
from rung.models.hub import resolve
from rung.models.lora import load_adapter
from rung.models.peft_format import read_adapter

TOY = 1 << 26  # bytes of weights, for which nobody need look through all objects of the process


def load_model(
    name: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Model:
    """Weights in `dtype` on `device`. A PEFT adapter folder is opened on the base model that it names."""
    path = resolve(str(name))
    if (path / "adapter_config.json").exists():
        model = load_model(base_of(path), dtype, device)
        load_adapter(model, path)
        return model
    config = read_config(path)
    if not supported(config):
        return TransformersDecoder(path, config, dtype).to(device)
    if sum(file.stat().st_size for file in path.glob("*.safetensors")) > TOY:
        gc.collect()  # a run of this process that has ended is a circle of objects: not its model beside this one
    with torch.device("meta"):
        model = Decoder(DecoderConfig.from_hf(config))
    load_into(model, path, dtype)
    return model.to(device)


def base_of(adapter: Path) -> str:
    """The model that an adapter was trained on, as its adapter_config.json names it."""
    return read_adapter(adapter).base_name
