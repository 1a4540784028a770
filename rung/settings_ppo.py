"""Settings of PPO: those of reinforcement learning, and the critic's, the KL's, the dense reward's, the cost's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rung.settings_rl import LossParts, Rl


@dataclass(frozen=True)
class PpoLoss(LossParts):
    value_clip: float | None = None
    """How far the critic may move from its answer of before the round (0.2); 0 does not clip."""
    value_weight: float | None = None
    """Weight of the critic's loss beside the policy's (0.1)."""


@dataclass(frozen=True)
class Critic:
    """What expects the reward."""

    trunk: Literal["own", "shared"] = "own"
    """A network of its own, or a head on the policy's: half the memory, and the two pull at one trunk."""
    start: str = ""
    """What a network of its own starts from, best a reward model; by default the policy with a head of zeros."""
    rate: float = 10.0
    """Its learning rate as a multiple of the policy's."""
    discount: float = 1.0
    """GAE's gamma: what a reward one token later is worth."""
    trace: float = 0.95
    """GAE's lambda: 1 believes what was paid, 0 what the critic expects next."""


@dataclass(frozen=True)
class Kl:
    """How the policy is held to the reference and to itself."""

    target: float = 0.0
    """Nats per answer that parts.reward-beta is steered to (Ziegler); 0 leaves it as it is."""
    horizon: int = 10000
    """Answers in which it moves by at most a fifth."""
    stop: float = 0.0
    """A round ends once an update finds the policy this many nats a token from its start; 0 never ends one early."""


@dataclass(frozen=True)
class Dense:
    """RTO: a policy trained by DPO pays for each token."""

    model: str = ""
    """That policy, trained from the same start with the same tokenizer; empty pays at the end only."""
    weight: float = 0.05
    """Of its log-ratio to the reference."""
    limit: float = 0.05
    """Largest size of a token's pay."""


@dataclass(frozen=True)
class Cost:
    """Safe RLHF: something to be kept below a limit while the reward rises."""

    reward: str = ""
    """What says how costly an answer is: a cost model (rm:FOLDER) or any form that --reward takes; empty for none."""
    limit: float = 0.0
    """Mean cost that is allowed."""
    constraint: Literal["hard", "soft"] = "hard"
    """hard: the multiplier moves until the limit is kept. soft: the cost has a fixed price."""
    multiplier: float = 1.0
    """What a unit of cost is worth in reward, at first or for ever."""
    rate: float = 0.1
    """How fast the logarithm of the multiplier moves."""
    largest: float = 5.0
    """The multiplier never exceeds it."""
    episodes: int = 128
    """The mean cost is that of so many last answers."""
    kl_share: float = 0.5
    """How much of the KL the reward bears; the cost bears the rest."""


@dataclass(frozen=True)
class Ppo(Rl):
    """Proximal policy optimization: a critic says what to expect, and what exceeds it becomes likelier."""

    method: Literal["ppo"] = "ppo"  # type: ignore[assignment]
    """The recipe; its parts and its loss can be changed."""
    prompts: int = 32
    """Tasks of a round."""
    epochs: int = 4
    """Times a round is gone through in its updates."""
    missing_end_penalty: float = 0.0
    """Taken from the reward of an answer that ran into its limit; 1 is usual with a reward model."""
    critic: Critic = field(default_factory=Critic)
    kl: Kl = field(default_factory=Kl)
    dense: Dense = field(default_factory=Dense)
    cost: Cost = field(default_factory=Cost)
    loss: PpoLoss = field(default_factory=PpoLoss)
