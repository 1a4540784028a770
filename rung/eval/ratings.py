"""Who wins: win rates with ties, and Bradley-Terry ratings from games between many models.

    win rate        wins + ties / 2, over judged games; a judge that abstained is not a tie and is left out
    Bradley-Terry   P(a beats b) = sigma(r_a - r_b), maximum likelihood, ratings sum to zero
    Elo scale       1000 + 400 / ln 10 * r

Games about one prompt are alike, so intervals are clustered by prompt. Ratings exist only where every model
can be reached from every other through wins (Ford 1957); anything less is refused, naming the models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np

from rung.errors import UserError
from rung.eval.glm import fit
from rung.eval.intervals import Estimate, proportion, wilson

ELO = 400 / log(10)


@dataclass(frozen=True)
class Game:
    """One judgement: `outcome` is 1 if `first` won, 0 if `second` did, 0.5 for a tie."""

    first: str
    second: str
    outcome: float
    prompt: str
    first_length: float = 0.0  # of the answers, for length control
    second_length: float = 0.0


def win_rate(games: Sequence[Game], model: str, seed: int = 0) -> Estimate:
    """Of `model` against all it met, a tie counting half; the interval is over prompts."""
    mine = [(game.prompt, points(game, model)) for game in games if model in (game.first, game.second)]
    if not mine:
        raise UserError(f"{model} played no game; there are games of {', '.join(players(games)) or 'nobody'}")
    prompts, index = np.unique([prompt for prompt, _ in mine], return_inverse=True)
    won = np.bincount(index, [value for _, value in mine], len(prompts))
    return proportion(won, np.bincount(index, minlength=len(prompts)), seed=seed)


def points(game: Game, model: str) -> float:
    return game.outcome if game.first == model else 1 - game.outcome


def players(games: Sequence[Game]) -> list[str]:
    return sorted({name for game in games for name in (game.first, game.second)})


@dataclass(frozen=True)
class Ratings:
    """Natural units around a mean of 0; `covariance` belongs to them."""

    models: tuple[str, ...]
    values: np.ndarray
    covariance: np.ndarray

    def elo(self) -> dict[str, Estimate]:
        """Best first. Each interval is against the field's mean; compare two models with `beats`."""
        spread = 1.959964 * np.sqrt(np.diag(self.covariance))
        rows = zip(self.models, self.values, spread, strict=True)
        found = {m: Estimate(*(1000 + ELO * x for x in (v, v - s, v + s))) for m, v, s in rows}
        return dict(sorted(found.items(), key=lambda item: -item[1].value))

    def beats(self, first: str, second: str) -> Estimate:
        """The chance that first beats second, with the interval of their difference."""
        contrast = np.array([(m == first) - (m == second) for m in self.models], float)
        gap = float(contrast @ self.values)
        spread = 1.959964 * sqrt(float(contrast @ self.covariance @ contrast))
        return Estimate(*(1 / (1 + exp(-x)) for x in (gap, gap - spread, gap + spread)))


def bradley_terry(games: Sequence[Game]) -> Ratings:
    """The ratings of all who played. Refused where the likelihood has no maximum."""
    models = players(games)
    if len(models) < 2:
        raise UserError("ratings need games between at least two models")
    require_connected(games, models)
    index = {name: i for i, name in enumerate(models)}
    difference = np.zeros((len(games), len(models)))
    for row, game in enumerate(games):
        if game.first == game.second:
            raise UserError(f"{game.first} was judged against itself (prompt {game.prompt}); drop that game")
        difference[row, index[game.first]], difference[row, index[game.second]] = 1, -1
    # The sum is zero: the last rating is minus the others, whose columns are therefore shifted.
    basis = np.vstack([np.eye(len(models) - 1), -np.ones(len(models) - 1)])
    found = fit(
        difference @ basis,
        np.array([game.outcome for game in games]),
        clusters=np.array([game.prompt for game in games]),
    )
    return Ratings(tuple(models), basis @ found.coefficients, basis @ found.covariance @ basis.T)


def require_connected(games: Sequence[Game], models: Sequence[str]) -> None:
    """Everyone must reach everyone along "took at least half a point from"; else ratings drift to infinity."""
    took: dict[str, set[str]] = {name: set() for name in models}
    met: dict[str, set[str]] = {name: set() for name in models}
    for game in games:
        met[game.first].add(game.second)
        met[game.second].add(game.first)
        if game.outcome > 0:
            took[game.first].add(game.second)
        if game.outcome < 1:
            took[game.second].add(game.first)
    apart = set(models) - reachable(met, models[0])
    if apart:
        raise UserError(
            f"{', '.join(sorted(apart))} and {models[0]} are not connected by any chain of games, so their "
            "ratings cannot be compared; let them play, or rate the groups apart"
        )
    for name in models:
        beyond = set(models) - reachable(took, name)
        if beyond:
            ahead, behind = sorted(beyond), sorted(set(models) - beyond)
            raise UserError(
                f"{', '.join(behind)} never took half a point from {', '.join(ahead)}, so the difference of "
                "their ratings is infinite; judge more prompts, or report the win rate"
            )


def reachable(edges: Mapping[str, set[str]], start: str) -> set[str]:
    seen, waiting = {start}, [start]
    while waiting:
        new = edges[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


@dataclass(frozen=True)
class LengthControlled:
    raw: Estimate
    controlled: Estimate  # the win rate if both had written equally much
    length_effect: Estimate  # log odds per standard deviation of the length difference, squashed


def length_controlled(games: Sequence[Game], model: str, seed: int = 0) -> LengthControlled:
    """The win rate at equal length (AlpacaEval 2, arXiv 2404.04475), for `model` against all it met.

        logit P(win) = theta + phi tanh((length - other length) / std of the differences);  report sigma(theta)

    Simplified: theirs also has a term for each instruction's difficulty, fitted jointly over a leaderboard of
    models and regularised. Here one pair of sides is judged at a time and nothing is regularised.
    """
    raw = win_rate(games, model, seed)
    mine = [game for game in games if model in (game.first, game.second)]
    sign = np.array([1 if game.first == model else -1 for game in mine])
    gaps = sign * np.array([game.first_length - game.second_length for game in mine], float)
    if len(mine) < 10 or gaps.std() == 0:
        raise UserError(
            f"length control needs at least 10 games of {model} whose lengths differ, and there are "
            f"{len(mine)} with a spread of {gaps.std():g}; report the plain win rate"
        )
    design = np.column_stack([np.ones(len(mine)), np.tanh(gaps / gaps.std())])
    outcome = np.array([points(game, model) for game in mine])
    found = fit(design, outcome, clusters=np.array([game.prompt for game in mine]))
    if found.separated:
        low, high = wilson(raw.value * len(mine), len(mine))
        raise UserError(
            f"length and win cannot be told apart for {model}: its wins are sorted by length (or it won or lost "
            f"everything; win rate {raw.value:.3g}, {low:.3g} to {high:.3g}). Judge answers of other lengths"
        )
    (theta, phi), spread = found.coefficients, 1.959964 * np.sqrt(np.diag(found.covariance))
    ends = (theta, theta - spread[0], theta + spread[0])
    return LengthControlled(
        raw,
        Estimate(*(float(1 / (1 + exp(-x))) for x in ends)),
        Estimate(float(phi), float(phi - spread[1]), float(phi + spread[1])),
    )
