"""Settings that more than one room reads. Frozen, validated when built, and free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rung.errors import UserError


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters. The defaults (every linear layer, alpha 32) follow "LoRA without regret"."""

    rank: int = 0
    """Rank of the adapters; 0 trains the full weights."""
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout on the adapters' input while training."""
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(rank) instead (rsLoRA)."""
    targets: tuple[str, ...] = ()
    """Names of the layers to adapt, such as q_proj; empty means every linear layer except the output head."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise UserError(
                f"lora.rank is {self.rank}, and a rank cannot be negative. "
                "Write 0 for full fine-tuning, or a rank such as 16."
            )
        if not self.alpha > 0:
            raise UserError(
                f"lora.alpha is {self.alpha}, which would switch the adapter off or turn its sign. "
                "Write a positive number such as 32."
            )
        if not 0 <= self.dropout < 1:
            raise UserError(
                f"lora.dropout is {self.dropout}, and it is a probability below 1. Write for example 0.05."
            )


@dataclass(frozen=True)
class Optimizer:
    """How the weights move. The optimizer always works on float32 masters."""

    name: Literal["adamw", "muon", "adamw-8bit", "adamw-offload"] = "adamw"
    """adamw; muon for hidden matrices with AdamW for the rest; 8-bit or host-offloaded state from torchao."""
    learning_rate: float = 1e-4
    """Peak rate."""
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """What follows the warm-up; wsd is warm-up, stable, linear decay."""
    warmup: float = 0.05
    """Steps of linear warm-up; below 1 a share of the run."""
    decay: float = 0.2
    """Length of the final fall of wsd: steps, or below 1 a share of the run."""
    final_share: float = 0.0
    """Where linear, cosine and wsd end, as a share of the peak."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices; vectors are never decayed."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of AdamW's first and second moment."""
    epsilon: float = 1e-8
    """Added to AdamW's denominator."""
    muon_factor: float = 1.0
    """Rate of Muon's matrices as a multiple of learning_rate (updates are matched to AdamW's size)."""
    clip: float = 1.0
    """Largest gradient norm; 0 does not clip."""
    average: float = 0.0
    """Decay of an exponential moving average of the weights, saved beside them; 0 keeps none."""
