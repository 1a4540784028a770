"""`rung sft`: train on demonstrations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from rung.config import method_settings, parse, to_dict
from rung.errors import UserError
from rung.settings import Lora, Optimizer

Nll = method_settings("rung.methods.nll", "nll")


@dataclass(frozen=True)
class Sft:
    """Supervised fine-tuning: raise the probability of what the demonstrations say."""

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


def main(settings: Sft) -> int:
    if settings.resume:
        settings = resumed(settings)
    elif not settings.data:
        raise UserError("No data was given. Write --data FILE, for example --data rows.jsonl.")
    from rung.pipelines.sft import sft

    sft(settings)
    return 0


def resumed(given: Sft) -> Sft:
    """The settings a run was started with. A run is one experiment: other settings are refused, by name."""
    run = Path(given.resume)
    if not (run / "config.json").is_file():
        raise UserError(
            f"--resume {run} is not a run folder: it has no config.json. `rung runs list` shows the runs."
        )
    started = parse(Sft, ["--config", str(run / "config.json")], "rung sft")
    default, asked, was = (leaf_values(s) for s in (Sft(), given, started))
    changed = [k for k in asked if asked[k] not in (default[k], was[k]) and k not in ("resume", "out")]
    if changed:
        lines = ", ".join(f"{k}: started with {was[k]}, now {asked[k]}" for k in changed)
        raise UserError(
            f"{run} cannot be resumed with other settings ({lines}). Leave them out, or start a new run "
            "from its checkpoint with --model."
        )
    return replace(started, resume=given.resume)


def leaf_values(settings: Sft) -> dict[str, object]:
    def walk(value: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
        for key, part in value.items():
            yield from walk(part, f"{prefix}{key}.") if isinstance(part, dict) else [(prefix + key, part)]

    return dict(walk(to_dict(settings)))
