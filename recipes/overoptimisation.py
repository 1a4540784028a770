"""A proxy reward pushed until the gold reward falls (2210.10760): python recipes/overoptimisation.py FOLDER

The world can be enumerated: answers are points of 20 numbers, all equally likely at the start. Gold is better along one
direction and worse far out, gold = u.x - 0.15 |x|^2, so what is typical says little of extremes. A proxy, linear in
the numbers and their squares, is fitted to m of gold's preferences between answers of the start by rung's
Bradley-Terry loss, and then pushed in two ways:

    best of n    the exact distribution of the proxy's favourite among n, and its exact KL to the start
    RL           rung's PPO, credit and loss, on the proxy without a KL term: a policy that is log-linear in what the
                 proxy sees, 256 answers sampled a round; the KL along the way is exact too

Rewards are means over the policy less the start's, and Gao's forms are fitted to their means over 16 seeds at equal
distance. Printed, drawn and written down: the forms, where gold peaks, and what it is worth there and at the end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rung.advantages.assign import Round, assign
from rung.advantages.recipes import RECIPES
from rung.batch import Example, ScalarScores, TokenScores, collate
from rung.eval.overoptimisation import Form, Overoptimisation, fit_overoptimisation, kl_of_best_of
from rung.methods.bradley_terry import bradley_terry
from rung.methods.ppo import ppo

ANSWERS, NUMBERS, CURVATURE = 1 << 17, 20, 0.15
LABELS, SEEDS = (30, 60, 150), 16
SIZES = tuple(2**k for k in range(16))
SAMPLED = 256  # answers of a round of RL
FARTHEST = kl_of_best_of(SIZES[-1])  # RL goes as far as best of n does
MOST_ROUNDS = 500  # more than any proxy here takes to get there


@dataclass(frozen=True)
class World:
    """Every answer: what a proxy sees of it, `[A, 2 numbers]`, and what it is truly worth, `[A]`."""

    features: np.ndarray  # of mean 0 and deviation 1 each
    gold: np.ndarray

    @staticmethod
    def drawn(seed: int, answers: int = ANSWERS) -> World:
        x = np.random.default_rng((seed, 0)).standard_normal((answers, NUMBERS))
        gold = x @ np.full(NUMBERS, NUMBERS**-0.5) - CURVATURE * (x**2).sum(1)
        return World(np.hstack([x, (x**2 - 1) / 2**0.5]), gold)

    def standing(self, chance: np.ndarray, proxy: np.ndarray) -> tuple[float, float, float]:
        """Of a policy over answers: the root of its KL to the start, gold and proxy less the start's."""
        possible = chance[chance > 0]
        kl = max(float(possible @ np.log(possible * len(chance))), 0.0)
        return kl**0.5, float(chance @ self.gold - self.gold.mean()), float(chance @ proxy - proxy.mean())


def documents(count: int) -> Any:
    """Answers as documents of one token after a prompt of one; which tokens they are does not matter."""
    ids = np.zeros(2, np.int32)
    return collate([Example(ids, np.array([False, True]), f"answer {i}") for i in range(count)])


def fitted_proxy(world: World, labels: int, seed: int) -> np.ndarray:
    """What a reward model makes of so many preferences, for every answer. Its weights have a normal prior."""
    dice = np.random.default_rng((seed, labels))
    pairs = dice.integers(0, len(world.gold), (labels, 2))
    first, second = world.gold[pairs].T
    as_drawn = dice.random(labels) < 1 / (1 + np.exp(second - first))
    chosen_first = np.where(as_drawn[:, None], pairs, pairs[:, ::-1])
    batch = replace(documents(2 * labels), pairs=tuple((2 * i, 2 * i + 1) for i in range(labels)))
    seen = torch.from_numpy(world.features[chosen_first.reshape(-1)])
    weight = torch.zeros(seen.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def negative_log_posterior() -> torch.Tensor:
        optimizer.zero_grad()
        score_B = seen @ weight
        found = bradley_terry(ScalarScores(score_B, score_B), batch).sum + weight.square().sum() / 2
        found.backward()
        return found

    optimizer.step(negative_log_posterior)
    return world.features @ weight.detach().numpy()


def best_of(n: int, proxy: np.ndarray) -> np.ndarray:
    """Chance of each answer to be the proxy's favourite of n: that of rank i of A has (i/A)^n - ((i-1)/A)^n."""
    chance = np.empty(len(proxy))
    chance[np.argsort(proxy)] = np.diff((np.arange(len(proxy) + 1) / len(proxy)) ** n)
    return chance


def reinforced(world: World, proxy: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """The policy's chance of each answer, round by round, as PPO raises the proxy. Never ends."""
    dice, features = np.random.default_rng((seed, 1)), torch.from_numpy(world.features).float()
    recipe = replace(RECIPES["ppo"], reward_beta=0.0, kl_in_reward="none")
    theta = torch.zeros(features.shape[1], requires_grad=True)
    value = torch.zeros(1, requires_grad=True)
    # Plain SGD: Adam would move weights the proxy hardly cares for as fast as those it does.
    optimizer = torch.optim.SGD([{"params": [theta], "lr": 0.02}, {"params": [value], "lr": 0.1}])
    empty = documents(SAMPLED)
    while True:
        logprob = (features @ theta).detach().double().log_softmax(0).numpy()
        chance = np.exp(logprob) / np.exp(logprob).sum()
        yield chance
        drawn = dice.choice(len(chance), SAMPLED, p=chance)
        credit = assign(
            recipe,
            Round(
                reward_R=proxy[drawn],
                group_R=np.arange(SAMPLED),
                truncated_R=np.zeros(SAMPLED, bool),
                lengths=(1,) * SAMPLED,
                by_model_N=np.ones(SAMPLED, bool),
                value_N=np.full(SAMPLED, value.item()),
            ),
        )
        columns = {name: torch.zeros(2 * SAMPLED) for name in (*credit.columns, "old_logprob")}
        for name, found in {**credit.columns, "old_logprob": logprob[drawn]}.items():
            columns[name][1::2] = torch.from_numpy(found).float()
        batch = replace(empty, columns=columns)
        for _ in range(recipe.updates):
            now = (features @ theta).log_softmax(0)[drawn]
            scores = TokenScores(now, torch.arange(SAMPLED), values={"value": value.expand(SAMPLED)})
            loss = ppo(scores, batch, value_clip=0.0, value_weight=1.0)
            optimizer.zero_grad()
            (loss.sum / loss.count).backward()
            optimizer.step()


def best_of_path(world: World, proxy: np.ndarray) -> np.ndarray:
    """Rows of (distance, gold, proxy), one for each n."""
    return np.array([world.standing(best_of(n, proxy), proxy) for n in SIZES])


def rl_path(world: World, proxy: np.ndarray, seed: int) -> np.ndarray:
    """Rows of (distance, gold, proxy) at 28 equal steps of distance, between rounds by a straight line."""
    rows: list[tuple[float, float, float]] = []
    for _, chance in zip(range(MOST_ROUNDS), reinforced(world, proxy, seed), strict=False):
        rows.append(world.standing(chance, proxy))
        if rows[-1][0] ** 2 >= FARTHEST:
            break
    else:
        raise RuntimeError(f"seed {seed}: distance {rows[-1][0]:.2f} after {MOST_ROUNDS} rounds")
    distance, gold, said = np.array(rows).T
    steps = np.linspace(0, FARTHEST**0.5, 28)
    reached = np.maximum.accumulate(distance)
    return np.column_stack([steps, np.interp(steps, reached, gold), np.interp(steps, reached, said)])


def measured(labels: int) -> dict[Form, np.ndarray]:
    """Paths of all seeds, `[seeds, points, (distance, gold, proxy)]`."""
    paths: dict[Form, list[np.ndarray]] = {"best-of-n": [], "rl": []}
    for seed in range(SEEDS):
        world = World.drawn(seed)
        proxy = fitted_proxy(world, labels, seed)
        paths["best-of-n"].append(best_of_path(world, proxy))
        paths["rl"].append(rl_path(world, proxy, seed))
    return {form: np.array(found) for form, found in paths.items()}


def summary(labels: int, paths: np.ndarray, fit: Overoptimisation) -> dict[str, Any]:
    """What is printed and kept. The error is one standard error of the fall, over seeds."""
    distance, gold, _ = paths.mean(0).T
    best = int(gold.argmax())
    fall_S = paths[:, best, 1] - paths[:, -1, 1]
    return {
        "labels": labels,
        "form": fit.form,
        "alpha": fit.alpha,
        "beta": fit.beta,
        "r_squared": fit.r_squared,
        "peak_of_fit": fit.peak,
        "peak_seen": fit.peak_seen,
        "peak_measured": float(distance[best]),
        "gold_at_peak": float(gold[best]),
        "gold_at_end": float(gold[-1]),
        "fall_error": float(fall_S.std(ddof=1) / len(fall_S) ** 0.5),
        "distance_at_end": float(distance[-1]),
    }


def main(folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    rows = []
    for colour, labels in zip(("C0", "C1", "C2"), LABELS, strict=True):
        for (form, paths), panel in zip(measured(labels).items(), panels, strict=True):
            distance, gold, proxy = paths.mean(0).T
            fit = fit_overoptimisation(list(distance**2), list(gold), form)
            grid = np.linspace(0, distance.max(), 200)
            panel.plot(distance, gold, "o", ms=3, color=colour, label=f"proxy of {labels} labels")
            panel.plot(grid, [fit.at(each) for each in grid], color=colour, lw=1)
            panel.plot(distance, proxy, "--", color=colour, lw=0.8, alpha=0.6)
            rows.append(summary(labels, paths, fit))
            told = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items())
            print("  ".join(told), flush=True)
    for panel, title in zip(panels, ("best of n:  d (α − β d)", "RL (PPO):  d (α − β log d)"), strict=True):
        panel.set(title=title, xlabel="d = √KL(policy ‖ start)", ylim=(-2, 4))
        panel.axhline(0, color="0.8", lw=0.8, zorder=0)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("reward less the start's")
    panels[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.suptitle("dots: gold, lines: Gao's form fitted to them, dashed: what the proxy says", fontsize=9)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "overoptimisation.png", dpi=130)
    (folder / "overoptimisation.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "overoptimisation"))
