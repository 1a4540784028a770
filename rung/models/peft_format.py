"""Adapter folders in PEFT's format: `adapter_config.json` beside `adapter_model.safetensors`.

The tensors say which layers are corrected (`base_model.model.<layer>.lora_A.weight` and `lora_B`), so a
folder whose `target_modules` is a list, a pattern or "all-linear" is read the same way. The config says how
strongly. Variants of LoRA that compute something other than W + scale * B A are refused by name, since
reading them as plain LoRA would give wrong numbers without a word.

The digest of the base goes into the safetensors header, where PEFT does not look and nothing can part it
from the tensors.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rung.errors import UserError
from rung.settings import Lora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# Fields of PEFT's config that, when set, make the output something other than W + scale * B A.
VARIANTS = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "kasa_config", "monteclora_config"),
    *("alora_invocation_tokens", "arrow_config", "layer_replication", "modules_to_save"),
    *("target_parameters", "trainable_token_indices"),
)
# Other initialisations (PiSSA, OLoRA, ...) also rewrite the base weights.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Correction:
    """What one layer gets: scale * B A."""

    lora_A_RD: Tensor
    lora_B_OR: Tensor
    scale: float


@dataclass(frozen=True)
class Adapter:
    """An adapter folder in memory. `base_digest` is empty when another tool wrote it."""

    corrections: dict[str, Correction]  # by module path
    dropout: float
    base_name: str
    base_digest: str

    def tensors(self) -> dict[str, Tensor]:
        """Under PEFT's names."""
        named = {tensor_name(layer, "A"): c.lora_A_RD for layer, c in self.corrections.items()}
        return named | {tensor_name(layer, "B"): c.lora_B_OR for layer, c in self.corrections.items()}


def require_base(adapter: Adapter, path: Path, digest: str) -> None:
    """Refuse a base of another digest than the adapter was trained on, where both are known."""
    if digest and adapter.base_digest and digest != adapter.base_digest:
        raise UserError(
            f"{path} was trained on {adapter.base_name}, digest {adapter.base_digest[:16]}, and this "
            f"base has digest {digest[:16]}: its weights are not the same. Give the base it was trained on."
        )


def tensor_name(layer: str, part: str) -> str:
    """PEFT's name of a layer's "A" or "B"."""
    return f"base_model.model.{layer}.lora_{part}.weight"


def lora_scale(rank: int, alpha: float, rank_stabilised: bool) -> float:
    return alpha / (math.sqrt(rank) if rank_stabilised else rank)


def write_adapter(
    path: Path, tensors: dict[str, Tensor], settings: Lora, targets: list[str], base_name: str, digest: str
) -> None:
    """Write the two files into `path`, the config last: without it a folder is no adapter.

    So a crash never leaves the tensors of one adapter with the config of another. Within
    `rung.publish.publish` the folder appears whole or not at all.
    """
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": settings.rank,
        "lora_alpha": int(settings.alpha) if settings.alpha == int(settings.alpha) else settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rank_stabilised,
        "target_modules": targets,
        "bias": "none",
        "inference_mode": True,
    }
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.mkdir(parents=True, exist_ok=True)
    (path / CONFIG).unlink(missing_ok=True)
    # One key only: safetensors writes several in a random order, and equal adapters must be equal files.
    (path / WEIGHTS).write_bytes(save(plain, {"base_digest": digest}))
    (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def read_adapter(path: Path) -> Adapter:
    """Read and check an adapter folder, ours or PEFT's own."""
    config = _read_config(path / CONFIG)
    tensors, metadata = _read_tensors(path / WEIGHTS)
    return Adapter(
        corrections=_corrections(path, config, tensors),
        dropout=config.get("lora_dropout") or 0.0,
        base_name=config.get("base_model_name_or_path") or "",
        base_digest=metadata.get("base_digest", ""),
    )


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(
            f"{file.parent} is not an adapter folder: it has no {CONFIG}. "
            f"Give the folder that holds {CONFIG} and {WEIGHTS}."
        )
    try:
        config = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}). Save the adapter again.") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise UserError(f"{file} describes an adapter of type {kind}, and only LORA can be read.")
    variant = next((key for key in VARIANTS if config.get(key)), None)
    if variant:
        raise UserError(
            f"{file} sets {variant}, a variant of LoRA that is not a plain low-rank correction of linear "
            "layers. Merge it with PEFT (merge_and_unload) and give the merged folder as a model."
        )
    if config.get("init_lora_weights") not in PLAIN_STARTS:
        raise UserError(
            f"{file} was initialised by {config['init_lora_weights']!r}, which also rewrites the base. "
            "Save it again with PEFT's path_initial_model_for_weight_conversion to make it a plain LoRA."
        )
    return config


def _read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not file.is_file():
        older = file.with_suffix(".bin")
        remedy = (
            f"{older.name} holds pickled code, which is never read: load it in PEFT and save it again."
            if older.is_file()
            else "Save the adapter again."
        )
        raise UserError(f"{file.parent} has no {file.name}. {remedy}")
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{file} is damaged or cut short ({error}). Copy or save it again.") from error


def _corrections(path: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Correction]:
    pattern = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = pattern.fullmatch(name)
        if not found:
            raise UserError(
                f"{path / WEIGHTS} holds {name}, which is not part of a plain LoRA. "
                "Merge it with PEFT (merge_and_unload) and give the merged folder as a model."
            )
        parts.setdefault(found[1], {})[found[2]] = tensor
    if not parts:
        raise UserError(f"{path / WEIGHTS} holds no tensors. Save the adapter again.")
    return {layer: _correction(path, config, layer, part) for layer, part in parts.items()}


def _correction(path: Path, config: dict[str, Any], layer: str, part: dict[str, Tensor]) -> Correction:
    if len(part) < 2 or part["A"].shape[0] != part["B"].shape[1]:
        shapes = ", ".join(f"lora_{key} {list(tensor.shape)}" for key, tensor in sorted(part.items()))
        raise UserError(
            f"{path / WEIGHTS} has {shapes} for {layer}, and A and B of one rank are needed. "
            "Save the adapter again."
        )
    # As PEFT matches them: the first pattern that fits the end of the path.
    alphas: dict[str, float] = config.get("alpha_pattern") or {}
    fitting = (value for key, value in alphas.items() if re.match(rf"(.*\.)?({key})$", layer))
    alpha = next(fitting, config.get("lora_alpha", 8))
    rank = part["A"].shape[0]
    return Correction(part["A"], part["B"], lora_scale(rank, alpha, bool(config.get("use_rslora"))))
