"""Settings of online DPO: those of reinforcement learning, and how answers become pairs. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rung.settings import Optimizer
from rung.settings_rl import Rl


@dataclass(frozen=True)
class PairLoss:
    """Options of the preference loss that differ from the method's own; null keeps the method's."""

    beta: float | None = None
    """How dearly the policy pays for leaving the reference; of simpo, the scale of the reward."""
    label_smoothing: float | None = None
    """dpo, rpo: share of the verdicts that are thought to be wrong."""
    robust: bool | None = None
    """dpo: correct for the wrong verdicts in expectation."""
    penalty: float | None = None
    """dpop: nats of margin that one nat of fall of the chosen answer costs."""
    alpha: float | None = None
    """rpo: weight of the chosen answer's negative log-likelihood."""
    anchor: Literal["zero", "down"] | None = None
    """apo: zero pulls the chosen answer up, down pushes both down."""
    gamma: float | None = None
    """simpo: margin in units of the reward."""
    margin: float | None = None
    """slic: nats by which the chosen answer should be likelier."""
    weight: float | None = None
    """orpo: of the odds ratio. slic: of the likelihood."""


@dataclass(frozen=True)
class OnlineDpo(Rl):
    """Online preference learning: the policy answers, a verifier, reward model or judge picks, a pair is learned."""

    method: Literal["dpo", "ipo", "dpop", "rpo", "apo", "hinge", "simpo", "orpo", "slic"] = "dpo"  # type: ignore[assignment]
    """The preference loss."""
    group: int | None = None
    """Answers to each task, of which the best and the worst make the pair; null is 2."""
    updates: int | None = None
    """Optimizer steps of a round; null is 1."""
    tie: float = 0.0
    """Rewards this close are a tie, and their pair is skipped."""
    missing_end_penalty: float = 0.0
    """Taken from the reward of an answer that ran into its limit before the pair is picked; 1 is usual."""
    renew_every: int = 0
    """Rounds after which the policy of the moment becomes the reference; 0 keeps the start."""
    loss: PairLoss = field(default_factory=PairLoss)  # type: ignore[assignment]
    optimizer: Optimizer = field(
        default_factory=lambda: Optimizer(learning_rate=1e-6, schedule="constant", warmup=0)
    )
