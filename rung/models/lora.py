"""LoRA: freeze the weights W and train a low-rank correction, W + scale * B A (Hu et al. 2021).

A [R, D] starts random and B [O, R] starts at zero, so that the first step sees the base model exactly.
`scale` is alpha / R, or alpha / sqrt(R) when rank-stabilised (rsLoRA, Kalajdzievski 2023). The correction
is two thin products beside the frozen one, and `merge_adapter` folds it into W when training is over.

The output head, embeddings and routers are never adapted: the head is read as a plain matrix by the
log-prob kernel, and a router that moves changes which experts the others learn for.

Suffixes besides the legend in `rung/batch.py`: R the rank, O the output width of a layer.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rung.errors import UserError
from rung.models.peft_format import (
    Correction,
    lora_scale,
    read_adapter,
    require_base,
    tensor_name,
    write_adapter,
)
from rung.settings import Lora

NEVER_ADAPTED = frozenset({"lm_head", "score", "gate", "router", "shared_expert_gate"})


class LoraLinear(nn.Module):
    """A frozen linear layer and its correction.

    It deliberately has no `weight`: code that read the matrix of an adapted layer would silently miss the
    correction. The frozen matrix is `base.weight`.
    """

    def __init__(self, base: nn.Linear, correction: Correction, dropout: float):
        super().__init__()
        self.base = base
        self.lora_A = nn.Parameter(correction.lora_A_RD.to(base.weight))
        self.lora_B = nn.Parameter(correction.lora_B_OR.to(base.weight))
        self.scale = correction.scale
        self.dropout = dropout
        self.train(base.training)  # attaching to a model in eval mode must not switch dropout on

    def forward(self, hidden: Tensor) -> Tensor:
        hidden_ND = hidden.reshape(-1, hidden.shape[-1])
        seen_ND = F.dropout(hidden_ND, self.dropout) if self.training and self.dropout else hidden_ND
        # Adding into the base's own output saves a pass over [N, O]; nothing else has seen that tensor yet.
        out_NO = self.base(hidden_ND)
        out_NO.addmm_(F.linear(seen_ND, self.lora_A), self.lora_B.t(), alpha=self.scale)
        return out_NO.view(*hidden.shape[:-1], out_NO.shape[-1])

    @property
    def correction(self) -> Correction:
        return Correction(self.lora_A, self.lora_B, self.scale)


def add_adapter(model: nn.Module, settings: Lora, seed: int = 0) -> None:
    """Wrap the target layers of `model` in place and freeze everything else. Rank 0 leaves it as it is.

    A is uniform within 1 / sqrt(D), as `nn.Linear` and PEFT begin, drawn in float32 on the CPU so that one
    seed gives one adapter whatever the device and dtype.
    """
    if settings.rank == 0:
        return
    _refuse_second_adapter(model)
    targets = target_layers(model, settings.targets)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    scale = lora_scale(settings.rank, settings.alpha, settings.rank_stabilised)
    for name, base in targets.items():
        bound = 1 / math.sqrt(base.in_features)
        lora_A_RD = torch.empty(settings.rank, base.in_features).uniform_(-bound, bound, generator=generator)
        lora_B_OR = torch.zeros(base.out_features, settings.rank)
        correction = Correction(lora_A_RD, lora_B_OR, scale)
        _named(model).set_submodule(name, LoraLinear(base, correction, settings.dropout))


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trained tensors under PEFT's names."""
    layers = adapted_layers(model).items()
    return {
        tensor_name(name, part): tensor
        for name, layer in layers
        for part, tensor in (("A", layer.lora_A), ("B", layer.lora_B))
    }


def save_adapter(model: nn.Module, path: Path, settings: Lora, base_name: str, base_digest: str) -> None:
    """Write the attached adapter as a folder that `PeftModel.from_pretrained` opens."""
    layers = adapted_layers(model)
    if not layers:
        raise UserError(f"There is no adapter to save in {path}: the model has none attached.")
    scale = lora_scale(settings.rank, settings.alpha, settings.rank_stabilised)
    for name, layer in layers.items():
        if (layer.lora_A.shape[0], layer.scale) != (settings.rank, scale):
            raise UserError(
                f"The adapter of {name} has rank {layer.lora_A.shape[0]} and scale {layer.scale:g}, but the "
                f"settings to save say rank {settings.rank} and scale {scale:g}. Give the lora.rank, "
                "lora.alpha and lora.rank_stabilised that it was made with."
            )
    write_adapter(path, adapter_tensors(model), settings, _target_names(model), base_name, base_digest)


def load_adapter(model: nn.Module, path: Path, base_digest: str = "") -> None:
    """Attach the adapter in `path` (ours or PEFT's) and freeze everything else.

    Every name and shape is checked before anything is attached, and the digest of the base too where both
    the caller and the adapter know one.
    """
    _refuse_second_adapter(model)
    adapter = read_adapter(path)
    require_base(adapter, path, base_digest)
    linear = _adaptable(model)
    remedy = (
        f"Load it on the base it was trained on ({adapter.base_name or 'the adapter does not say which'})."
    )
    for name, correction in adapter.corrections.items():
        if name not in linear:
            raise UserError(
                f"{path} corrects {name}, which is not an adaptable layer of this model"
                f"{_did_you_mean(name, linear)} {remedy}"
            )
        given = (correction.lora_B_OR.shape[0], correction.lora_A_RD.shape[1])
        if given != (linear[name].out_features, linear[name].in_features):
            raise UserError(
                f"{path} corrects {name} as a {given[0]} x {given[1]} matrix, and this model has "
                f"{linear[name].out_features} x {linear[name].in_features} there. {remedy}"
            )
    model.requires_grad_(False)
    for name, correction in adapter.corrections.items():
        _named(model).set_submodule(name, LoraLinear(linear[name], correction, adapter.dropout))


def merge_adapter(model: nn.Module) -> None:
    """Fold every correction into its base weight and take the wrappers away; see `merge_weights`."""
    layers = adapted_layers(model)
    if not layers:
        raise UserError(
            "There is no adapter to merge: none is attached, or it has been merged already. "
            "Attach one first (load_adapter), and merge it once."
        )
    merge_weights(
        {name: layer.base.weight for name, layer in layers.items()},
        {name: layer.correction for name, layer in layers.items()},
    )
    for name, layer in layers.items():
        _named(model).set_submodule(name, layer.base)


@torch.no_grad()
def merge_weights(weights: dict[str, Tensor], corrections: dict[str, Correction]) -> None:
    """Add each correction to the weight of its name, in place. Products and sums are float32, rounded once.

    Raises, and leaves the weights as they were, when a correction is not finite or no weight would change.
    """
    for name, correction in corrections.items():
        if not _product_OD(correction).isfinite().all():
            raise UserError(
                f"The adapter's correction of {name} has infinite or NaN entries, and merging would ruin the "
                "base. The training run diverged: take an earlier checkpoint."
            )
    changed = False
    for name, correction in corrections.items():
        merged_OD = (weights[name].float() + _product_OD(correction)).to(weights[name].dtype)
        changed |= not torch.equal(merged_OD, weights[name])
        weights[name].copy_(merged_OD)
    if not changed:
        raise UserError(
            "Merging changes no weight: either the adapter was never trained (B is zero) or its corrections "
            f"are below the rounding of {next(iter(weights.values())).dtype}. Check that this is the trained "
            "adapter, and merge in float32."
        )


def _product_OD(correction: Correction) -> Tensor:
    return correction.scale * (correction.lora_B_OR.float() @ correction.lora_A_RD.float())


def adapted_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The wrapped layers by module path, in the order of the model."""
    return {name: module for name, module in _named(model).named_modules() if isinstance(module, LoraLinear)}


def target_layers(model: nn.Module, targets: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The linear layers that `targets` name, by the end of their path ("q_proj", "layers.0.mlp.up_proj")."""
    linear = _adaptable(model)
    for target in targets:
        if target.rsplit(".", 1)[-1] in NEVER_ADAPTED:
            raise UserError(
                f"lora.targets names {target}, and the output head and routers are never adapted. "
                "Leave it out; an empty lora.targets adapts every other linear layer."
            )
        if not any(_ends_in(name, target) for name in linear):
            raise UserError(
                f"lora.targets names {target}, and no linear layer of this model ends in that"
                f"{_did_you_mean(target, linear)} Its layers are {', '.join(leaf_names(linear))}."
            )
    if not linear:
        raise UserError("This model has no linear layer that can carry an adapter. Set lora.rank to 0.")
    return {n: m for n, m in linear.items() if not targets or any(_ends_in(n, t) for t in targets)}


def _target_names(model: nn.Module) -> list[str]:
    """`target_modules` for PEFT: last names ("q_proj") where they mean just the adapted layers."""
    adapted = adapted_layers(model)
    leaves = leaf_names(adapted)
    meant = {name for name, _ in _named(model).named_modules() if name.rsplit(".", 1)[-1] in leaves}
    return leaves if meant == set(adapted) else list(adapted)


def leaf_names(paths: Iterable[str]) -> list[str]:
    """The distinct last parts of module paths, in order."""
    return list(dict.fromkeys(path.rsplit(".", 1)[-1] for path in paths))


def _named(model: nn.Module) -> nn.Module:
    """The module whose paths are those of the checkpoint: the transformers fallback holds it inside."""
    return getattr(model, "inner", model)


def _adaptable(model: nn.Module) -> dict[str, nn.Linear]:
    head = getattr(model, "head_weight", None)  # whatever a family calls its output layer
    return {
        name: module
        for name, module in _named(model).named_modules()
        if isinstance(module, nn.Linear)
        and module.weight is not head
        and name.rsplit(".", 1)[-1] not in NEVER_ADAPTED
    }


def _ends_in(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


def _did_you_mean(name: str, linear: dict[str, nn.Linear]) -> str:
    close = difflib.get_close_matches(name, [*leaf_names(linear), *linear], n=1)
    return f". Did you mean {close[0]}?" if close else "."


def _refuse_second_adapter(model: nn.Module) -> None:
    if adapted_layers(model):
        raise UserError(
            "This model already carries an adapter, and one at a time is supported. Merge it first "
            "(merge_adapter, or `rung merge-adapter`), then add the next."
        )
