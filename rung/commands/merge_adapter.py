"""`rung merge-adapter`: an adapter and its base become one ordinary model folder, and the result is checked.

The weights are folded in the files' own terms (tensor by tensor, in float32), and the check goes another
way: the model with the live adapter and the folder read back must agree on fixed prompts, up to the
rounding of the dtype written, measured against how far the adapter moves the base.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from rung.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from rung.models.decoder import Decoder
    from rung.models.fallback import TransformersDecoder
    from rung.models.peft_format import Adapter

LINEAGE = "lineage.json"
PROMPTS = (
    "The capital of France is Paris, and the capital of Italy is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Question: what is 17 + 25 - 8? Think step by step.\nAnswer:",
)


@dataclass(frozen=True)
class MergeAdapter:
    """Fold a LoRA adapter into its base and write the merged model as an ordinary folder."""

    adapter: tyro.conf.Positional[str]
    """The adapter folder, in PEFT's format."""
    out: str
    """The folder to write; it must not exist or be empty."""
    base: str = ""
    """The base model; by default the one the adapter names."""
    dtype: Literal["base", "float32", "bfloat16"] = "base"
    """Type of the merged weights; base keeps that of the base's files."""


@dataclass(frozen=True)
class Check:
    """Largest differences in logits over the prompts."""

    merged: float  # between the merged folder and base with adapter
    adapter: float  # between base with adapter and base alone: what the adapter does
    allowed: float  # for `merged`


def main(settings: MergeAdapter) -> int:
    from rung.models.folder import digest, read_config, read_generation_config, read_tensors, write_folder
    from rung.models.hub import load_tokenizer, resolve
    from rung.models.peft_format import read_adapter, require_base
    from rung.publish import publish

    adapter_path = resolve(settings.adapter)
    adapter = read_adapter(adapter_path)
    base_name = settings.base or adapter.base_name
    if not base_name:
        raise UserError(f"{adapter_path} does not say which model it was trained on. Write --base MODEL.")
    base_path = resolve(base_name)
    config, tensors = read_config(base_path), read_tensors(base_path)
    lineage = {"base": base_name, "base_digest": digest(tensors)}
    lineage |= {"adapter": str(adapter_path.resolve()), "adapter_digest": digest(adapter.tensors())}
    require_base(adapter, adapter_path, lineage["base_digest"])
    tokenizer = load_tokenizer(str(adapter_path if has_tokenizer(adapter_path) else base_path))
    merge_tensors(tensors, adapter, settings.dtype)
    with publish(Path(settings.out)) as folder:
        write_folder(folder, tensors, config, tokenizer, read_generation_config(base_path))
        del tensors
        check = compare(base_path, adapter_path, folder, tokenizer)
        must_be_close(check, settings)
        lineage["largest_logit_difference"] = f"{check.merged:.3g}"
        (folder / LINEAGE).write_text(json.dumps(lineage, indent=2) + "\n")
    print(f"merged {len(adapter.corrections)} layers of {settings.adapter} into {base_name}: {settings.out}")
    print(
        f"largest logit difference from base with adapter: {check.merged:.2g} (allowed {check.allowed:.2g}; "
        f"the adapter itself moves logits by up to {check.adapter:.2g})"
    )
    return 0


def has_tokenizer(path: Path) -> bool:
    """A training run saves its tokenizer, and the template it trained with, beside the adapter."""
    return (path / "tokenizer_config.json").exists()


def merge_tensors(tensors: dict[str, Tensor], adapter: Adapter, dtype: str) -> None:
    """Fold the adapter into the tensors of the base's files."""
    import torch

    from rung.models.lora import merge_weights

    for name, tensor in tensors.items() if dtype != "base" else ():
        if tensor.is_floating_point():
            tensors[name] = tensor.to(getattr(torch, dtype))
    absent = next((layer for layer in adapter.corrections if f"{layer}.weight" not in tensors), None)
    if absent:
        raise UserError(
            f"The adapter corrects {absent}, and the files of the base have no tensor {absent}.weight. "
            "Write --base with the model it was trained on."
        )
    merge_weights({layer: tensors[f"{layer}.weight"] for layer in adapter.corrections}, adapter.corrections)


def compare(base_path: Path, adapter_path: Path, merged_path: Path, tokenizer) -> Check:
    import torch

    from rung.models.load import load_model
    from rung.models.lora import load_adapter

    ids = [tokenizer.encode(prompt) for prompt in PROMPTS]
    model = load_model(str(base_path), torch.float32).eval()
    base = logits(model, ids)
    load_adapter(model, adapter_path)
    live = logits(model, ids)
    del model
    merged_model = load_model(str(merged_path), torch.float32).eval()
    merged = logits(merged_model, ids)
    exact = read_dtype(merged_path) == "float32"
    effect = (live - base).abs().max().item()
    # Half precision rounds every weight, which may blur what the adapter does but not outweigh it. The floor
    # is float32's own noise at the size of these logits.
    allowed = max((0.001 if exact else 0.5) * effect, 1e-5 * live.abs().max().item())
    return Check(merged=(merged - live).abs().max().item(), adapter=effect, allowed=allowed)


def logits(model: Decoder | TransformersDecoder, documents: list[list[int]]) -> Tensor:
    """Logits of all prompts, laid end to end."""
    import torch

    from rung.models.decoder import Documents

    lengths = tuple(len(ids) for ids in documents)
    token_ids_N = torch.tensor([token for ids in documents for token in ids])
    positions_N = torch.cat([torch.arange(length) for length in lengths])
    with torch.no_grad():
        return model.logits(model(token_ids_N, positions_N, Documents(lengths)).states_ND)


def read_dtype(path: Path) -> str:
    from rung.models.folder import read_config

    return read_config(path)["dtype"]


def must_be_close(check: Check, settings: MergeAdapter) -> None:
    if not check.merged <= check.allowed:  # NaN is not close
        raise UserError(
            f"The merged model's logits differ from base and adapter by up to {check.merged:.2g}, and "
            f"{check.allowed:.2g} is allowed (the adapter moves them by {check.adapter:.2g}): rounding the "
            f"weights loses too much of the adapter. Write --dtype float32. {settings.out} was not written."
        )
