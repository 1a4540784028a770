"""Coefficients that move from round to round: PPO's KL coefficient and the multiplier of a constraint on costs.

Both are folds over the rounds before, which lie on disk, so a resumed run finds them again and no state is kept.
Ranks see the same rounds and agree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rung.advantages.actor_critic import adapt_multiplier
from rung.advantages.recipes import Recipe
from rung.advantages.returns import adapt_beta
from rung.rewards.score import Score
from rung.rollouts.columns import Graded
from rung.settings_ppo import Cost, Kl


@dataclass
class Adaptive:
    """The recipe as round r has it. `read(round)` gives a round that is over."""

    kl: Kl
    cost: Cost
    read: Callable[[int], Sequence[Graded]]
    _recipes: list[Recipe] = field(default_factory=list, repr=False)
    _costs: deque[float] = field(default_factory=deque, repr=False)

    def __call__(self, round: int, recipe: Recipe) -> Recipe:
        """`recipe` is that of round 0."""
        if not self._recipes:
            self._recipes, self._costs = [recipe], deque(maxlen=self.cost.episodes)
        while len(self._recipes) <= round:
            self._recipes.append(self._next(self._recipes[-1], self.read(len(self._recipes) - 1)))
        return self._recipes[round]

    def _next(self, recipe: Recipe, records: Sequence[Graded]) -> Recipe:
        if self.kl.target:
            beta = adapt_beta(
                recipe.reward_beta,
                answer_kl(records),
                target=self.kl.target,
                steps=len(records),
                horizon=self.kl.horizon,
            )
            recipe = replace(recipe, reward_beta=beta)
        if recipe.multiplier is not None and self.cost.constraint == "hard":
            self._costs.extend(costs_of(records))
            cost = float(np.mean(self._costs)) if self._costs else self.cost.limit
            limits = {name: getattr(self.cost, name) for name in ("limit", "rate", "largest")}
            recipe = replace(recipe, multiplier=adapt_multiplier(recipe.multiplier, cost, **limits))
        return recipe


def answer_kl(records: Sequence[Graded]) -> float:
    """Nats from the policy to the reference, summed over an answer (k1), mean over the answers of a round.

    Both log-probs are the trainer's, so that a policy that is still the reference has exactly 0.
    """
    sums = []
    for record in records:
        now = record.rollout.sampler_logprob if record.old_logprob is None else record.old_logprob
        assert record.reference_logprob is not None
        gap = now.astype(np.float64) - record.reference_logprob
        sums.append(float(gap[record.rollout.by_model].sum()))
    return float(np.mean(sums))


def costs_of(records: Sequence[Graded]) -> list[float]:
    """What the answers cost, as their verdicts say; those without a score say nothing."""
    found = (record.verdict for record in records)
    return [verdict.parts["cost"] for verdict in found if isinstance(verdict, Score)]
