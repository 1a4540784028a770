"""Where PPO, GRPO and DPO end, in worlds small enough to enumerate: python recipes/bandit_optimum.py [FOLDER]

E[r] - beta KL(policy || reference) has one optimum, policy* = reference exp(r / beta) / Z. Here every answer and
every group of answers is written down with its probability, so that rung's own credit and losses give expected
gradients without noise, and a softmax table follows them. Printed and drawn: KL(policy || policy*) as it learns,
and, of those that end elsewhere, KL to the fixed point that theory says they have:

    ppo, rloo             KL in the reward                      policy*
    dpo                   Bradley-Terry labels of r             policy*
    grpo, unnormalised    leave-one-out, KL in the loss         policy* for one step; for two, at each prefix
                                                                reference exp(E[r | prefix, token] / beta) / Z, the
                                                                expectation being the policy's: KL in the loss does
                                                                not see the KL still to come
    grpo, plain k3        the same, k3 differentiated           beta reference / (lambda - r), one step: the KL is the
                                                                other way round
    grpo                  over the deviation of its group       reference exp(E[A | answer] / beta) / Z, one step
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rung.advantages.assign import Round, assign
from rung.advantages.recipes import RECIPES, Recipe
from rung.batch import Batch, Example, TokenScores, collate
from rung.methods import find
from rung.methods.dpo import dpo

BETA, GROUP, STEPS = 0.5, 2, 400


@dataclass(frozen=True)
class World:
    """Answers as (state, token) pairs; a state is a prefix. Four answers, of one token or of two."""

    name: str
    answers: tuple[tuple[tuple[int, int], ...], ...]
    reference: np.ndarray  # logits [states, tokens]
    reward: np.ndarray  # of each answer

    @cached_property
    def prior(self) -> np.ndarray:
        """The reference's probability of each answer."""
        return np.exp(self.logprob(torch.from_numpy(self.reference)).numpy().sum(1))

    @cached_property
    def optimum(self) -> np.ndarray:
        return tilted(self.prior, self.reward / BETA)

    def logprob(self, theta: Tensor) -> Tensor:
        """`[answers, tokens]`."""
        table = theta.log_softmax(1)
        return torch.stack([torch.stack([table[s, a] for s, a in answer]) for answer in self.answers])


ONE = World(
    "one step",
    tuple(((0, a),) for a in range(4)),
    np.log(np.array([[0.4, 0.3, 0.2, 0.1]])),
    np.array([0.0, 0.6, 0.2, 1.0]),
)
TWO = World(
    "two steps",
    tuple(((0, a), (1 + a, b)) for a in range(2) for b in range(2)),
    np.log(np.array([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]])),
    np.array([0.0, 0.6, 0.2, 1.0]),
)


def tilted(prior: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    weight = prior * np.exp(exponent)
    return weight / weight.sum()


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


# ---- expected updates, by rung's own code ----


def documents(world: World, drawn: list[int]) -> Batch:
    """One document for each answer drawn; what its tokens are does not matter, only how many."""
    length = len(world.answers[0])
    ids = np.arange(length + 1, dtype=np.int32)
    return collate([Example(ids, ids > 0, f"answer {i}") for i in drawn])


def column(batch: Batch, per_token) -> Tensor:
    full = torch.zeros(len(batch.token_ids_N))
    full[batch.trained_N] = torch.as_tensor(np.asarray(per_token), dtype=torch.float32).reshape(-1)
    return full


def scores(batch: Batch, logprob: Tensor, values: dict[str, Tensor] | None = None) -> TokenScores:
    document_M = torch.arange(len(batch)).repeat_interleave(logprob.shape[1])
    return TokenScores(logprob.reshape(-1), document_M, values=values or {})


class PolicyGradient:
    """All groups of the recipe's size with their probabilities, as one round of several updates."""

    def __init__(self, world: World, recipe: Recipe):
        self.world, self.recipe, self.update = world, recipe, 0
        self.groups = list(itertools.product(range(len(world.answers)), repeat=recipe.group_size))
        self.drawn = [i for group in self.groups for i in group]
        self.batch = documents(world, self.drawn)
        self.values = torch.zeros(world.reference.shape[0], dtype=torch.float64, requires_grad=True)
        self.reference = world.logprob(torch.from_numpy(world.reference)).numpy()[self.drawn]
        self.length = len(world.answers[0])

    def expected_values(self) -> Tensor:
        states = [[state for state, _ in self.world.answers[i]] for i in self.drawn]
        return self.values[torch.tensor(states)]

    def begin(self, logprob: np.ndarray) -> None:
        chance = np.exp(logprob.sum(1))
        per_group = np.array([chance[list(group)].prod() for group in self.groups])
        weight = np.repeat(per_group, self.recipe.group_size * self.length)
        old, values = logprob[self.drawn], self.expected_values().detach().numpy()
        credit = assign(
            self.recipe,
            Round(
                reward_R=self.world.reward[self.drawn],
                group_R=np.arange(len(self.drawn)) // self.recipe.group_size,
                truncated_R=np.zeros(len(self.drawn), bool),
                lengths=(self.length,) * len(self.drawn),
                by_model_N=np.ones(len(weight), bool),
                logprob_N=old.reshape(-1),
                reference_N=self.reference.reshape(-1),
                value_N=values.reshape(-1),
            ),
        )
        named = {**credit.columns, "weight": weight, "old_logprob": old, "reference_logprob": self.reference}
        self.batch = replace(self.batch, columns={k: column(self.batch, v) for k, v in named.items()})

    def loss(self, theta: Tensor) -> Tensor:
        logprob = self.world.logprob(theta)
        if self.update % self.recipe.updates == 0:
            self.begin(logprob.detach().numpy())
        self.update += 1
        values = {"value": self.expected_values().reshape(-1)} if self.recipe.needs_critic else {}
        method = partial(find(self.recipe.loss), **self.recipe.loss_options)
        found = method(scores(self.batch, logprob[self.drawn], values), self.batch)
        return found.sum / found.count


class Pairs:
    """All ordered pairs of different answers, each as likely as Bradley-Terry's label says."""

    def __init__(self, world: World):
        self.world = world
        self.pairs = list(itertools.permutations(range(len(world.answers)), 2))
        reference = world.logprob(torch.from_numpy(world.reference)).numpy()
        self.batches = []
        for pair in self.pairs:
            batch = documents(world, list(pair))
            named = {"reference_logprob": column(batch, reference[list(pair)])}
            self.batches.append(replace(batch, columns=named, pairs=((0, 1),)))
        gap = np.array([world.reward[a] - world.reward[b] for a, b in self.pairs])
        self.chance = 1 / (1 + np.exp(-gap)) / (len(gap) / 2)

    def loss(self, theta: Tensor) -> Tensor:
        logprob = self.world.logprob(theta)
        parts = [
            chance * dpo(scores(batch, logprob[list(pair)]), batch, beta=BETA).sum
            for pair, batch, chance in zip(self.pairs, self.batches, self.chance, strict=True)
        ]
        return torch.stack(parts).sum()


def methods(world: World) -> dict[str, PolicyGradient | Pairs]:
    everywhere = {"aggregation": "token"}  # answers are equally long; a weight is then a probability
    loo = replace(
        RECIPES["grpo"],
        estimator="leave_one_out",
        group_size=GROUP,
        loss_options={**everywhere, "beta": BETA},
    )
    critic = {"value_clip": 0.0, "value_weight": 1.0}
    recipes = {
        "ppo": replace(RECIPES["ppo"], reward_beta=BETA, whiten=False, loss_options=critic),
        "rloo": replace(RECIPES["rloo"], reward_beta=BETA, group_size=GROUP, loss_options=everywhere),
        "grpo, unnormalised": loo,
        "grpo, plain k3": replace(loo, loss_options={**loo.loss_options, "kl_gradient": "plain"}),
        "grpo": replace(loo, estimator="group_normalized"),
    }  # fmt: skip
    return {**{name: PolicyGradient(world, recipe) for name, recipe in recipes.items()}, "dpo": Pairs(world)}


def learn(world: World, method: PolicyGradient | Pairs, steps: int = STEPS) -> np.ndarray:
    """The policy over answers after each step, `[steps, answers]`. The rate falls to 0, so that the end is a point."""
    theta = torch.tensor(world.reference, requires_grad=True)
    values = [method.values] if isinstance(method, PolicyGradient) else []
    optimizer = torch.optim.Adam([theta, *values], lr=0.05)
    path = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / steps)
        optimizer.zero_grad()
        method.loss(theta).backward()
        optimizer.step()
        path.append(np.exp(world.logprob(theta).detach().numpy().sum(1)))
    return np.array(path)


# ---- what theory says, without rung ----


def fixed_point(world: World, name: str) -> np.ndarray:
    """Where a method must end. Found by iteration of its stationarity condition, damped."""
    if name in ("ppo", "rloo", "dpo"):
        return world.optimum
    if world is TWO:
        return two_step_fixed_point(name)
    if name == "grpo, unnormalised":
        return world.optimum
    if name == "grpo, plain k3":
        low, high = world.reward.max() + 1e-9, world.reward.max() + 10
        for _ in range(200):
            middle = (low + high) / 2
            too_much = (BETA * world.prior / (middle - world.reward)).sum() > 1
            low, high = (middle, high) if too_much else (low, middle)
        return BETA * world.prior / (low - world.reward)
    policy = world.prior
    for _ in range(4000):
        policy = 0.9 * policy + 0.1 * tilted(world.prior, normalised_credit(world.reward, policy) / BETA)
    return policy


def normalised_credit(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """E[(r - mean) / std | answer] over the other members of its group."""
    found = np.zeros(len(reward))
    for mine in range(len(reward)):
        for others in itertools.product(range(len(reward)), repeat=GROUP - 1):
            group = reward[[mine, *others]]
            if np.ptp(group):
                found[mine] += policy[list(others)].prod() * (group[0] - group.mean()) / group.std(ddof=1)
    return found


def two_step_fixed_point(name: str) -> np.ndarray:
    """At each prefix the reference tilted by what the policy itself expects of a token, over beta."""
    conditional = np.exp(TWO.reference)  # rows sum to 1
    prior, policy = conditional.copy(), conditional.copy()
    for _ in range(4000):
        answers = (policy[0][:, None] * policy[1:]).reshape(-1)
        credit = normalised_credit(TWO.reward, answers) if name == "grpo" else TWO.reward
        pay = credit.reshape(2, 2)
        expected = np.vstack([(policy[1:] * pay).sum(1), pay])
        if name == "grpo, plain k3":
            aim = np.array([level(p, q) for p, q in zip(prior, expected, strict=True)])
        else:
            aim = np.array([tilted(p, q / BETA) for p, q in zip(prior, expected, strict=True)])
        policy = 0.9 * policy + 0.1 * aim
    return (policy[0][:, None] * policy[1:]).reshape(-1)


def level(prior: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """beta prior / (lambda - reward), lambda such that it sums to 1."""
    low, high = reward.max() + 1e-9, reward.max() + 10
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (BETA * prior / (middle - reward)).sum() > 1 else (low, middle)
    return BETA * prior / (low - reward)


def main(folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
    rows = []
    for world, panel in zip((ONE, TWO), panels, strict=True):
        for name, method in methods(world).items():
            path = learn(world, method)
            ends = fixed_point(world, name)
            away = [divergence(policy, world.optimum) for policy in path]
            (line,) = panel.plot(np.maximum(away, 1e-12), label=name)
            if divergence(ends, world.optimum) > 1e-9:
                panel.axhline(divergence(ends, world.optimum), ls=":", lw=1, color=line.get_color())
            rows.append(
                {
                    "world": world.name,
                    "method": name,
                    "kl_to_optimum": away[-1],
                    "kl_to_own_fixed_point": divergence(path[-1], ends),
                    "kl_of_fixed_point_to_optimum": divergence(ends, world.optimum),
                }
            )
            print("  ".join(f"{v:.1e}" if isinstance(v, float) else f"{v:20}" for v in rows[-1].values()))
        panel.set(title=world.name, xlabel="steps on the expected gradient", yscale="log", ylim=(1e-10, 1))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("KL(policy ‖ policy*), nats")
    panels[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle("dotted: the fixed point that theory gives, where it is not policy*", fontsize=9)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "bandit-optimum.png", dpi=130)
    (folder / "bandit-optimum.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/figures"))
