"""Settings of the preference commands: what they share, and one class for each method. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rung.schema import method_settings
from rung.settings import Lora, Optimizer


@dataclass(frozen=True)
class Preference:
    """What every preference method asks for."""

    data: tuple[str, ...] = ()
    """Files, folders or hub ids of rows with chosen and rejected; FILE:WEIGHT mixes by weight."""
    model: str = "smollm2-135m"
    """A known name, a Hugging Face id, a local folder, a run folder or a .gguf file; also the reference."""
    out: str = ""
    """The run folder; by default a new one under runs/."""
    resume: str = ""
    """Continue this run folder from its latest checkpoint, with the settings it was started with."""
    eval_data: tuple[str, ...] = ()
    """Held-out rows."""
    eval_share: float = 0.0
    """Hold out this share of the data instead."""
    eval_every: int = 0
    """Steps between validations; one always follows the last step."""
    max_length: int = 1024
    """Longest document, prompt and one answer, in tokens."""
    overlong: Literal["drop", "truncate"] = "drop"
    """What happens to longer documents; a pair is dropped whole, and dropped ones are counted."""
    history_thinking: Literal["template", "keep", "strip"] = "template"
    """Whether thinking in earlier turns stays: as the chat template does, always, or never."""
    epochs: float = 1.0
    """Passes over the data."""
    steps: int | None = None
    """Optimizer steps; overrides epochs."""
    step_pairs: int = 32
    """Pairs (for kto, answers) of an optimizer step, over all micro-batches and ranks."""
    micro_tokens: int | None = None
    """Tokens that go through the model at once; changes memory and speed, never the gradient."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Type of the compute weights; auto is bf16 where the machine multiplies it natively, else fp32."""
    head_float32: bool = False
    """Form the logits of a bf16 or fp16 model in float32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes the first GPU."""
    recompute: bool = False
    """Recompute activations in backward (activation checkpointing): less memory, a third more work."""
    seed: int = 0
    """Order of the rows and everything random."""
    save_every: int = 0
    """Steps between checkpoints; one always follows the last step."""
    keep: int = 2
    """Checkpoints kept; 0 keeps all."""
    trackers: tuple[Literal["none", "tensorboard", "trackio", "wandb", "mlflow"], ...] = ()
    """Where metrics go besides the run folder."""
    track_start: bool = True
    """Compare with the start's log-probs even where the method needs none: one forward over the data, cached."""
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(learning_rate=1e-6))
    lora: Lora = field(default_factory=Lora)

    @property
    def soft(self) -> bool:
        """Whether the rows say how sure they are of their preference, and the loss goes by it."""
        return False


DpoMethod = method_settings("rung.methods.dpo", "dpo")
IpoMethod = method_settings("rung.methods.ipo", "ipo")
KtoMethod = method_settings("rung.methods.kto", "kto")
OrpoMethod = method_settings("rung.methods.orpo", "orpo")
SimpoMethod = method_settings("rung.methods.simpo", "simpo")
DpopMethod = method_settings("rung.methods.dpop", "dpop")
RpoMethod = method_settings("rung.methods.rpo", "rpo")
ApoMethod = method_settings("rung.methods.apo", "apo")
HingeMethod = method_settings("rung.methods.hinge", "hinge")
SlicMethod = method_settings("rung.methods.slic", "slic")


@dataclass(frozen=True)
class Dpo(Preference):
    """Direct preference optimisation: the chosen answer gains more on the start than the rejected one."""

    method: DpoMethod = field(default_factory=DpoMethod)  # type: ignore[valid-type]

    @property
    def soft(self) -> bool:
        return self.method.soft  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Ipo(Preference):
    """IPO: DPO with a fixed margin as its target, so that sure preferences do not drive it without end."""

    method: IpoMethod = field(default_factory=IpoMethod)  # type: ignore[valid-type]


@dataclass(frozen=True)
class Kto(Preference):
    """KTO: learn from thumbs up and down, without pairs. Pairs are read as one of each."""

    method: KtoMethod = field(default_factory=KtoMethod)  # type: ignore[valid-type]


@dataclass(frozen=True)
class Orpo(Preference):
    """ORPO: supervised learning and preference in one stage, without a reference."""

    method: OrpoMethod = field(default_factory=OrpoMethod)  # type: ignore[valid-type]
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(learning_rate=8e-6))


@dataclass(frozen=True)
class Simpo(Preference):
    """SimPO: log-prob per token as the reward, with a margin and without a reference."""

    method: SimpoMethod = field(default_factory=SimpoMethod)  # type: ignore[valid-type]


@dataclass(frozen=True)
class Dpop(Preference):
    """DPOP: DPO that does not let the chosen answer fall below the start."""

    method: DpopMethod = field(default_factory=DpopMethod)  # type: ignore[valid-type]


@dataclass(frozen=True)
class Rpo(Preference):
    """RPO: DPO with the chosen answer's likelihood beside it."""

    method: RpoMethod = field(default_factory=RpoMethod)  # type: ignore[valid-type]


@dataclass(frozen=True)
class Apo(Preference):
    """APO: DPO that says which way each answer should go."""

    method: ApoMethod = field(default_factory=ApoMethod)  # type: ignore[valid-type]


@dataclass(frozen=True)
class Hinge(Preference):
    """Hinge: push each pair to a margin and leave it there (RSO's form of SLiC)."""

    method: HingeMethod = field(default_factory=HingeMethod)  # type: ignore[valid-type]


@dataclass(frozen=True)
class Slic(Preference):
    """SLiC: the chosen answer likelier than the other by a margin, without a reference."""

    method: SlicMethod = field(default_factory=SlicMethod)  # type: ignore[valid-type]
