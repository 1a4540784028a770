"""A round of experience: tasks chosen, played, graded, turned into credit. One round is one function of its number.

Which tasks a round plays and every die it throws follow from (seed, round), so with the same weights a round is
sampled again bit for bit. Grading goes on while sampling does. Where several ranks train, each plays its share
and all of them see the whole round.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rung import dist
from rung.advantages.assign import Round, assign
from rung.advantages.filters import carries_signal
from rung.advantages.recipes import Recipe
from rung.batch import Rollout
from rung.data.mixture import epoch_order
from rung.errors import RunStopped
from rung.rewards.score import Attempt, Score, Verdict
from rung.rollouts.columns import OF_CREDIT, Graded
from rung.rollouts.engine import sample_seed
from rung.rollouts.episodes import Ask, Episode, Theatre

if TYPE_CHECKING:
    from rung.envs.environment import Task
    from rung.rewards.workers import Graders, Grading

ScoreRollouts = Callable[[Sequence[Rollout]], list[np.ndarray]]  # float32 [T] each


@dataclass
class Collector:
    theatre: Theatre
    graders: Graders
    recipe: Recipe
    tasks: Sequence[Task]
    prompts: int  # of a round, over all ranks
    seed: int
    waves: int = 1  # dynamic sampling plays up to this many times `prompts` tasks to fill a round
    reference: ScoreRollouts | None = None  # log-probs under the reference, where the recipe reads them
    old: ScoreRollouts | None = (
        None  # log-probs under the policy as it is now, where a round has several updates
    )
    values: Callable[[Sequence[Rollout]], dict[str, list[np.ndarray]]] | None = (
        None  # what the critics expect before each token, by the critic's name
    )
    dense: ScoreRollouts | None = None  # log-probs under the policy trained by DPO
    adapted: Callable[[int, Recipe], Recipe] = lambda round, recipe: recipe  # the recipe as a round has it
    hidden: ScoreRollouts | None = None  # `[T, D]`, the states that predicted the tokens, for DelTA
    seconds: dict[str, float] | None = None  # where the time of the last round went

    def __call__(self, round: int) -> list[Graded]:
        """The rollouts of a round with verdicts and credit, in a fixed order."""
        began = time.perf_counter()
        played: list[tuple[Rollout, Verdict]] = []
        greedy: dict[int, float] = {}
        for wave in range(self.waves if self.recipe.dynamic_sampling else 1):
            found, best = self._wave(round, wave)
            played += found
            greedy |= best
            if self._full(played):
                break
        sampled = time.perf_counter()
        graded = self._credit(self.adapted(round, self.recipe), self._best_groups(played), greedy)
        self.seconds = {"rollout_seconds": sampled - began, "credit_seconds": time.perf_counter() - sampled}
        return graded

    def _wave(self, round: int, wave: int) -> tuple[list[tuple[Rollout, Verdict]], dict[int, float]]:
        """Play `prompts` tasks, this rank its share; every rank gets them all, with the greedy rewards."""
        asks = []
        for place in range(self.prompts)[dist.rank() :: dist.world()]:
            index = (round * self.waves + wave) * self.prompts + place
            task = self.tasks[self._task(index)]
            seeds = [sample_seed(self.seed, index, sample) for sample in range(self.recipe.group_size)]
            asks += [Ask(task, index, seed) for seed in seeds]
            if self.recipe.needs_greedy:
                asks.append(Ask(task, index, seeds[0], greedy=True))
        graded = GradedAsTheyEnd(self.graders, asks)
        episodes = self.theatre.play(asks, graded)
        verdicts = graded.verdicts()
        own = [
            (ask, episode.rollout(), verdict)
            for ask, episode, verdict in zip(asks, episodes, verdicts, strict=True)
        ]
        everyone = sorted(dist.gather_objects(own), key=lambda part: part[0].group)
        greedy = {ask.group: _value(verdict) for ask, _, verdict in everyone if ask.greedy}
        return [(rollout, verdict) for ask, rollout, verdict in everyone if not ask.greedy], greedy

    def _task(self, index: int) -> int:
        """Every task once per epoch, in an order of its own each time."""
        epoch, place = divmod(index, len(self.tasks))
        return int(epoch_order([len(self.tasks)], None, self.seed, epoch)[place])

    def _signal(self, played: list[tuple[Rollout, Verdict]]) -> np.ndarray:
        rewards = np.array([_value(verdict) for _, verdict in played])
        return carries_signal(rewards, np.array([rollout.group for rollout, _ in played]))

    def _full(self, played: list[tuple[Rollout, Verdict]]) -> bool:
        signal = self._signal(played)
        return (
            len({rollout.group for (rollout, _), good in zip(played, signal, strict=True) if good})
            >= self.prompts
        )

    def _best_groups(self, played: list[tuple[Rollout, Verdict]]) -> list[tuple[Rollout, Verdict]]:
        """The first `prompts` groups that carry a signal; others fill up where there are too few."""
        if len({rollout.group for rollout, _ in played}) <= self.prompts:
            return played
        good = {rollout.group for (rollout, _), ok in zip(played, self._signal(played), strict=True) if ok}
        order = sorted({rollout.group for rollout, _ in played}, key=lambda group: (group not in good, group))
        chosen = set(order[: self.prompts])
        return [part for part in played if part[0].group in chosen]

    def _credit(
        self, recipe: Recipe, played: list[tuple[Rollout, Verdict]], greedy: dict[int, float]
    ) -> list[Graded]:
        rollouts = [rollout for rollout, _ in played]
        if not any(isinstance(verdict, Score) for _, verdict in played):
            raise RunStopped(
                f"None of {len(played)} rollouts got a score; the first says: {played[0][1] if played else 'none'}. "
                "Mend the reward and resume the run.",
                1,
            )
        reference = (
            self.reference(rollouts) if self.reference is not None and self.recipe.needs_reference else None
        )
        old = self.old(rollouts) if self.old is not None else None
        credit = assign(recipe, self._round(played, greedy, reference, old))
        starts = np.cumsum([0, *(len(rollout) for rollout in rollouts)])
        nothing = not credit.kept_R.any()  # no group to learn from: train all with an advantage of 0
        graded = []
        for i, (rollout, verdict) in enumerate(played):
            rows = slice(starts[i], starts[i + 1])
            weight = np.ones(len(rollout)) if nothing else credit.columns["weight"][rows]
            learned = {name: credit.columns[name] for name in OF_CREDIT if name in credit.columns}
            graded.append(
                Graded(
                    rollout,
                    verdict,
                    credit.columns["advantage"][rows].astype(np.float32),
                    weight.astype(np.float32),
                    old[i] if old is not None else None,
                    reference[i] if reference is not None else None,
                    **{name: column[rows].astype(np.float32) for name, column in learned.items()},
                )
            )
        return graded

    def _round(
        self,
        played: list[tuple[Rollout, Verdict]],
        greedy: dict[int, float],
        reference: list[np.ndarray] | None,
        old: list[np.ndarray] | None,
    ) -> Round:
        rollouts = [rollout for rollout, _ in played]
        values = self.values(rollouts) if self.values is not None else {}
        dense = self.dense(rollouts) if self.dense is not None else None

        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(rollout, name) for rollout in rollouts])

        return Round(
            reward_R=np.array([_value(verdict) for _, verdict in played]),
            group_R=np.array([rollout.group for rollout in rollouts]),
            truncated_R=np.array([rollout.finish == "length" for rollout in rollouts]),
            lengths=tuple(len(rollout) for rollout in rollouts),
            by_model_N=joined("by_model"),
            greedy_R=np.array([greedy.get(rollout.group, np.nan) for rollout in rollouts]),
            logprob_N=joined("sampler_logprob").astype(np.float64) if old is None else _flat(old),
            reference_N=_flat(reference),
            entropy_N=joined("entropy").astype(np.float64),
            hidden_ND=None if self.hidden is None else np.concatenate(self.hidden(rollouts)),
            value_N=_flat(values.get("value")),
            dense_N=None if dense is None or reference is None else _flat(dense) - _flat(reference),
            cost_R=np.array([_cost(verdict) for _, verdict in played]),
            cost_value_N=_flat(values.get("cost")),
        )


class GradedAsTheyEnd:
    """Hands attempts to the graders while others are being sampled; a reward of many attempts gets whole groups."""

    def __init__(self, graders: Graders, asks: Sequence[Ask]):
        self.graders, self.asks = graders, asks
        self.missing = Counter(ask.group for ask in asks)
        self.ended: dict[int, list[tuple[int, Attempt]]] = {}
        self.places: dict[int, tuple[Grading, int]] = {}

    def __call__(self, index: int, episode: Episode) -> None:
        group = self.asks[index].group
        self.missing[group] -= 1
        self.ended.setdefault(group, []).append((index, episode.attempt()))
        if not self.graders.batched or not self.missing[group]:
            members = sorted(self.ended.pop(group), key=lambda member: member[0])
            grading = self.graders.submit([attempt for _, attempt in members])
            self.places |= {index: (grading, place) for place, (index, _) in enumerate(members)}

    def verdicts(self) -> list[Verdict]:
        """In the order of the asks."""
        found = (self.places[index] for index in range(len(self.asks)))
        return [grading.futures[place].result() for grading, place in found]


def _flat(columns: list[np.ndarray] | None) -> Any:
    """End to end in float64, or None."""
    return None if columns is None else np.concatenate(columns).astype(np.float64)


def _cost(verdict: Verdict) -> float:
    """The part of a score that is called cost; NaN where there is none."""
    return verdict.parts.get("cost", float("nan")) if isinstance(verdict, Score) else float("nan")


def _value(verdict: Verdict) -> float:
    """The number of a score; NaN where there is none, which credit knows how to leave out."""
    return verdict.value if isinstance(verdict, Score) else float("nan")
