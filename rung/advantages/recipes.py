"""Each method of the policy-gradient family as data: which credit, which loss, what it must be given.

A pipeline picks a recipe by name and changes any part of it: `replace(RECIPES["grpo"], estimator="leave_one_out")`.
This file imports nothing heavy, so that a command line can offer the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Estimator = Literal[
    "reward",  # no baseline
    "batch_mean",
    "greedy",
    "leave_one_out",
    "group_mean",
    "group_normalized",
    "group_mean_batch_std",
    "gae",  # against a critic
]
TokenCredit = Literal["uniform", "entropy_mask", "entropy_shaped", "delta", "decisions"]


@dataclass(frozen=True)
class Recipe:
    """What distinguishes one method from another."""

    loss: str  # a name in rung.methods
    loss_options: Mapping[str, Any] = field(
        default_factory=dict
    )  # where they differ from that loss's defaults
    estimator: Estimator = "group_normalized"
    estimator_options: Mapping[str, Any] = field(default_factory=dict)
    token_credit: TokenCredit = "uniform"
    credit_options: Mapping[str, Any] = field(default_factory=dict)
    whiten: bool = False  # the advantages, over all tokens of the round
    kl_in_reward: Literal["none", "answer", "token"] = "none"
    reward_beta: float = 0.0  # coefficient of that KL; 0 switches it off
    group_size: int = 8  # answers per prompt
    updates: int = 1  # optimizer steps per round of rollouts
    dynamic_sampling: bool = False  # draw again for prompts whose answers all score alike
    overlong_filter: bool = False  # an answer that ran into its limit does not train
    offline: bool = False  # rollouts are drawn once, from the base model
    missing_end_penalty: float = 0.0  # taken from the reward of an answer that ran into its limit
    dense_weight: float = 0.0  # of a DPO policy's log-ratio as reward of each token (RTO)
    dense_limit: float = 0.05  # largest size of that reward
    multiplier: float | None = None  # what a unit of cost is worth in reward; None: there is no cost
    kl_share: float = 0.5  # where there is one, how much of the KL the reward bears; the cost bears the rest

    @property
    def needs_greedy(self) -> bool:
        """One more rollout per prompt, at temperature 0."""
        return self.estimator == "greedy"

    @property
    def needs_entropy(self) -> bool:
        return self.token_credit in ("entropy_mask", "entropy_shaped", "decisions")

    @property
    def needs_hidden(self) -> bool:
        """The states that entered the output head, at every token the model wrote."""
        return self.token_credit == "delta"

    @property
    def credit_alone(self) -> bool:
        """Whether credit is all the loss reads, so that an answer without credit has exactly no gradient."""
        pulled = self.loss_options.get("beta") or self.loss_options.get("entropy_bonus")
        return not pulled and self.loss not in ("ppo", "reason_maxxer")

    @property
    def needs_critic(self) -> bool:
        return self.estimator == "gae"

    @property
    def needs_reference(self) -> bool:
        in_reward = self.kl_in_reward != "none" and self.reward_beta != 0
        in_loss = bool(self.loss_options.get("beta")) or self.loss == "reason_maxxer"
        return in_reward or in_loss or self.dense_weight != 0


RECIPES: dict[str, Recipe] = {
    "reinforce": Recipe("reinforce", estimator="batch_mean"),
    "rloo": Recipe("rloo", estimator="leave_one_out", kl_in_reward="answer", reward_beta=0.05, group_size=4),
    "remax": Recipe("remax", estimator="greedy", kl_in_reward="token", group_size=1),
    "grpo": Recipe("grpo"),
    "dr_grpo": Recipe("dr_grpo", estimator="group_mean"),
    "dapo": Recipe("dapo", updates=16, dynamic_sampling=True, overlong_filter=True),
    "gspo": Recipe("gspo", updates=4),
    "cispo": Recipe("cispo", estimator="group_mean_batch_std", group_size=16, updates=4),
    "reinforce_plus_plus": Recipe(
        "reinforce_plus_plus",
        estimator="reward",
        whiten=True,
        kl_in_reward="token",
        reward_beta=0.01,
        group_size=1,
    ),
    "reinforce_plus_plus_baseline": Recipe(
        "reinforce_plus_plus", {"beta": 0.01, "kl": "k2"}, estimator="group_mean", whiten=True
    ),
    "high_entropy": Recipe(
        "dapo", token_credit="entropy_mask", updates=16, dynamic_sampling=True, overlong_filter=True
    ),
    "entropy_shaped": Recipe("dapo", token_credit="entropy_shaped"),
    "delta": Recipe("dapo", {"dual_clip": 10.0}, token_credit="delta", updates=4),
    "ppo": Recipe(
        "ppo",
        estimator="gae",
        estimator_options={"discount": 1.0, "trace": 0.95},
        whiten=True,
        kl_in_reward="token",
        reward_beta=0.05,
        group_size=1,
        updates=4,
    ),
    "reason_maxxer": Recipe(
        "reason_maxxer",
        estimator_options={"ddof": 0, "limit": 2.5},
        token_credit="decisions",
        group_size=20,
        offline=True,
    ),
}
