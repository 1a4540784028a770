"""Settings that more than one room reads. Frozen, validated when built, and free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rung.errors import UserError
from rung.schema import method_settings


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


@dataclass(frozen=True)
class Anchor:
    """Hold the weights near the start: 1/2 sum (l2 + ewc F) (w - start)^2 is added to the loss."""

    l2: float = 0.0
    """How firmly every weight is held; 0 is off. Start from 0.1 to 100: it depends on the size of the weights."""
    ewc: float = 0.0
    """How firmly what old data depend on is held (elastic weight consolidation); 1 trades a nat of old for one of new."""
    data: tuple[str, ...] = ()
    """Rows of what should be kept: ewc estimates the Fisher information on them."""
    documents: int = 64
    """So many of these rows are read, once, before the first step."""

    def __post_init__(self) -> None:
        for key, value in (("l2", self.l2), ("ewc", self.ewc)):
            if not 0 <= value < float("inf"):
                raise UserError(
                    f"anchor.{key} is {value}, and a pull below 0 would drive the weights away from the start. "
                    "Write 0 for none, or a positive number."
                )
        if bool(self.ewc) != bool(self.data):
            raise UserError(
                "anchor.ewc holds what some old rows depend on: it needs --anchor.data FILE, and anchor.data has no "
                "use without it. Write both, or neither."
            )
        if self.documents < 1:
            raise UserError(
                f"anchor.documents is {self.documents}, and at least one row must be read. Write 64."
            )


Nll = method_settings("rung.methods.nll", "nll")


@dataclass(frozen=True)
class Supervised:
    """What every command that trains on rows of text asks for."""

    data: tuple[str, ...] = ()
    """Files, folders or hub ids of rows; FILE:WEIGHT mixes by weight."""
    model: str = "smollm2-135m"
    """A known name, a Hugging Face id, a local folder, a run folder or a .gguf file."""
    out: str = ""
    """The run folder; by default a new one under runs/."""
    resume: str = ""
    """Continue this run folder from its latest checkpoint, with the settings it was started with."""
    eval_data: tuple[str, ...] = ()
    """Held-out rows for the validation loss."""
    eval_share: float = 0.0
    """Hold out this share of the data instead."""
    eval_every: int = 0
    """Steps between validations; one always follows the last step."""
    max_length: int = 1024
    """Longest document in tokens."""
    overlong: Literal["drop", "truncate"] = "drop"
    """What happens to longer documents; dropped ones are counted."""
    history_thinking: Literal["template", "keep", "strip"] = "template"
    """Whether thinking in earlier turns stays: as the chat template does, always, or never."""
    epochs: float = 1.0
    """Passes over the data."""
    steps: int | None = None
    """Optimizer steps; overrides epochs."""
    step_tokens: int = 4096
    """Tokens of an optimizer step, over all micro-batches and ranks."""
    step_documents: int | None = None
    """Documents of an optimizer step; overrides step_tokens."""
    micro_tokens: int | None = None
    """Tokens that go through the model at once; changes memory and speed, never the gradient."""
    packing: bool = True
    """Fill micro-batches with several documents; off, each holds one."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Type of the compute weights; auto is bf16 where the machine multiplies it natively, else fp32."""
    head_float32: bool = False
    """Form the logits of a bf16 or fp16 model in float32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes the first GPU."""
    recompute: bool = False
    """Recompute activations in backward (activation checkpointing): less memory, a third more work."""
    neftune: float = 0.0
    """Size of uniform noise on the embeddings while training (NEFTune); 5 is common."""
    seed: int = 0
    """Order of the rows and everything random."""
    save_every: int = 0
    """Steps between checkpoints; one always follows the last step."""
    keep: int = 2
    """Checkpoints kept; 0 keeps all."""
    trackers: tuple[Literal["none", "tensorboard", "trackio", "wandb", "mlflow"], ...] = ()
    """Where metrics go besides the run folder."""
    method: Nll = field(default_factory=Nll)  # type: ignore[valid-type]
    optimizer: Optimizer = field(default_factory=Optimizer)
    lora: Lora = field(default_factory=Lora)


@dataclass(frozen=True)
class Sft(Supervised):
    """Supervised fine-tuning: raise the probability of what the demonstrations say."""

    anchor: Anchor = field(default_factory=Anchor)

    def __post_init__(self) -> None:
        if self.lora.rank and (self.anchor.l2 or self.anchor.ewc):
            raise UserError(
                "lora.rank and anchor are two ways to stay near the start: adapters leave the weights where they are, "
                "and an anchor pulls at weights that move. Write one of them."
            )
