"""Settings of `rung reward`. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rung.schema import method_settings
from rung.settings import Lora, Optimizer

BradleyTerry = method_settings("rung.methods.bradley_terry", "bradley_terry")


@dataclass(frozen=True)
class Reward:
    """Train a reward model: of pairs, of judged answers, or of judged steps; or a cost model of what is harmful.

    pairs     rows of chosen and rejected, with a column `margin` if wanted: Bradley-Terry
    costs     rows of chosen, the less harmful answer, and rejected, with chosen_safe and rejected_safe (true or false)
    outcome   rows of prompt, completion and label (true or false): is the whole answer right
    process   rows of prompt, completions (the steps) and labels, one for each: is all well up to here
    """

    data: tuple[str, ...] = ()
    """Files, folders or hub ids of rows; FILE:WEIGHT mixes by weight."""
    kind: Literal["pairs", "costs", "outcome", "process"] = "pairs"
    """What the rows say."""
    model: str = "smollm2-135m"
    """A known name, a Hugging Face id, a local folder, a run folder or a .gguf file; a reward model keeps its head."""
    out: str = ""
    """The run folder; by default a new one under runs/."""
    resume: str = ""
    """Continue this run folder from its latest checkpoint, with the settings it was started with."""
    eval_data: tuple[str, ...] = ()
    """Held-out rows, which the calibration report is about."""
    eval_share: float = 0.1
    """Hold out this share of the data instead; 0 holds out none, and there is no report."""
    eval_every: int = 0
    """Steps between validations; one always follows the last step."""
    max_length: int = 1024
    """Longest document, prompt and one answer, in tokens."""
    overlong: Literal["drop", "truncate"] = "drop"
    """What happens to longer documents; dropped ones are counted."""
    history_thinking: Literal["template", "keep", "strip"] = "template"
    """Whether thinking in earlier turns stays: as the chat template does, always, or never."""
    step_end: str = "\n\n"
    """Process: the text between two steps; a score is read where it ends, and at the end of the last step."""
    epochs: float = 1.0
    """Passes over the data; preferences are noisy, and a second pass learns the noise."""
    steps: int | None = None
    """Optimizer steps; overrides epochs."""
    step_pairs: int = 32
    """Pairs (or judged answers) of an optimizer step, over all micro-batches and ranks."""
    micro_tokens: int | None = None
    """Tokens that go through the model at once; changes memory and speed, never the gradient."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Type of the compute weights; auto is bf16 where the machine multiplies it natively, else fp32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes the first GPU."""
    recompute: bool = False
    """Recompute activations in backward (activation checkpointing): less memory, a third more work."""
    seed: int = 0
    """The fresh head, the order of the rows and everything else random: members of an ensemble differ in it."""
    save_every: int = 0
    """Steps between checkpoints; one always follows the last step."""
    keep: int = 2
    """Checkpoints kept; 0 keeps all."""
    trackers: tuple[Literal["none", "tensorboard", "trackio", "wandb", "mlflow"], ...] = ()
    """Where metrics go besides the run folder."""
    method: BradleyTerry = field(default_factory=BradleyTerry)  # type: ignore[valid-type]
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(learning_rate=1e-5))
    lora: Lora = field(default_factory=Lora)
