"""On-policy distillation from settings to a finished run folder: reinforcement learning whose credit is a teacher's word.

    environment -> collector (play, grade) -> the teacher's log-prob of each token -> credit -> policy gradient

Everything but the credit is `pipelines/rl.py`. The environment's grader is asked too, where there is one: its reward
is logged with every round and decides nothing. With `gkd` the loss reads no credit: at every place that the student
came to, it is the divergence of the two models' whole distributions (GKD, 2306.13649, all data the student's own).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rung.advantages.recipes import Recipe
from rung.advantages.teacher import reverse_kl, teacher_score
from rung.batch import Batch, Example, Rollout, TokenScores
from rung.config import to_dict
from rung.endpoint import is_url
from rung.envs.environment import Environment
from rung.errors import UserError
from rung.methods.distill import distill
from rung.models.fallback import Model
from rung.models.load import load_model
from rung.models.taught import live_teacher, score_against
from rung.pipelines.distill import in_words, measure_of
from rung.pipelines.recipe import recipe_of
from rung.pipelines.rl import Player, reward_for, rl
from rung.pipelines.teacher import check_name, endpoint_teacher, same_teacher, vocabulary_of
from rung.rewards.score import Attempt, Reward, Score
from rung.rollouts.columns import Graded
from rung.settings_distill import DistillOnPolicy
from rung.sources.collector import Collector
from rung.sources.experience import ExperienceSource
from rung.train import Method


def distill_on_policy(settings: DistillOnPolicy) -> Path:
    """Train and return the run folder. Continues the run where `settings.resume` names one."""
    check_name(settings.teacher)
    if settings.top_p != 1 or settings.min_tokens:
        raise UserError(
            "With --top-p below 1 or --min-tokens the text is not the student's own, and its distance from the "
            "teacher's is measured wrongly. Leave them out."
        )
    if settings.method == "teacher_score" and settings.group == 1:
        raise UserError("--method teacher_score compares answers to one prompt. Write --group 2 or more.")
    measure_of(settings)
    if is_url(settings.teacher):
        if settings.method == "gkd":
            raise UserError(
                "--method gkd compares whole distributions, and a server gives log-probs of a few tokens. Write "
                "--method reverse_kl, or name a teacher that can be loaded here."
            )
        if settings.temperature != 1:
            raise UserError("A server's log-probs are at temperature 1. Leave --temperature out.")
    else:
        vocabulary_of(settings.model, settings.teacher)
    return rl(settings, "distill-on-policy", TaughtPlayer)


@dataclass
class Taught:
    """A collector whose rollouts get their credit from the teacher: `reference_logprob` is the teacher's."""

    collect: Callable[[int], list[Graded]]
    method: str

    def __call__(self, round: int) -> list[Graded]:
        graded = self.collect(round)
        rollouts = [record.rollout for record in graded]
        teacher = [np.asarray(record.reference_logprob) for record in graded]
        if self.method != "teacher_score":  # of gkd it is what the record shows
            credit = [
                reverse_kl(rollout.sampler_logprob, said, rollout.by_model)
                for rollout, said in zip(rollouts, teacher, strict=True)
            ]
        else:
            groups = np.array([rollout.group for rollout in rollouts])
            credit = teacher_score(teacher, [rollout.by_model for rollout in rollouts], groups)
        return [
            replace(record, advantage=advantage, weight=record.rollout.by_model.astype(np.float32))
            for record, advantage in zip(graded, credit, strict=True)
        ]


@dataclass(frozen=True)
class Ungraded:
    """Stands in where prompts have no verifier."""

    trusted = True

    def __call__(self, attempt: Attempt) -> Score:
        return Score(0.0)


def recipe_for(settings: Any) -> Recipe:
    """REINFORCE++ with its KL in the reward, less the reward: its reference is the teacher."""
    given = [name for name, value in to_dict(settings.parts).items() if value is not None]
    if given:
        raise UserError(
            f"--parts.{given[0].replace('_', '-')} changes how a reward becomes credit, and here credit is the "
            "teacher's word. Leave it out."
        )
    given = [name for name, value in to_dict(settings.loss).items() if value is not None]
    if given and settings.method == "gkd":
        raise UserError(
            f"--loss.{given[0].replace('_', '-')} is about a policy gradient, and gkd's loss is a divergence. Leave it out."
        )
    group = settings.group or (4 if settings.method == "teacher_score" else 1)
    as_rl: Any = replace(settings, method="reinforce_plus_plus", group=group)
    return replace(recipe_of(as_rl), whiten=False, reward_beta=1.0)


def paid_by(settings: Any, environment: Environment) -> Reward:
    return Ungraded() if settings.reward == "none" else reward_for(settings, environment)


class TaughtPlayer(Player):
    settings: DistillOnPolicy

    @staticmethod
    def recipe_for(settings: Any) -> Recipe:
        return recipe_for(settings)

    @staticmethod
    def reward_for(settings: Any, environment: Environment) -> Reward:
        return paid_by(settings, environment)

    def _start(self) -> Model:
        """Whoever is measured against: the teacher. A server has no model here, so the student stands in."""
        if is_url(self.settings.teacher):
            return self.model
        model: Any = load_model(self.settings.teacher, self.subject.dtype, self.subject.device)
        model.batch_invariant = self.settings.batch_invariant
        model.requires_grad_(False).eval()
        if self.settings.method == "gkd":
            self.compare = self._comparison(model)
        return model

    def _recorded(self) -> dict[str, Any]:
        digest = same_teacher(self.stage, self.settings.teacher)
        return {"teacher_digest": digest} if digest else {}

    def _comparison(self, teacher: Model) -> Callable[[Model, Batch], TokenScores]:
        settings = self.settings
        size = vocabulary_of(settings.model, settings.teacher).size
        options: Any = {"temperature": settings.temperature or 1.0, "head_float32": settings.head_float32}
        live, measure = live_teacher(teacher, size, **options), measure_of(settings)
        return lambda model, batch: score_against(model, batch, live, measure, size=size, **options)

    def _score(self, model: Model, batch: Batch) -> TokenScores:
        return self.compare(model, batch) if self.settings.method == "gkd" else super()._score(model, batch)

    def _loss(self) -> Method:
        return distill if self.settings.method == "gkd" else super()._loss()

    def _credit_alone(self) -> bool:
        return self.settings.method != "gkd" and super()._credit_alone()

    def _loss_in_words(self) -> str:
        if self.settings.method != "gkd":
            return super()._loss_in_words()
        return f"{in_words(measure_of(self.settings))} to the teacher per token of the student's own"

    def equip(self, collector: Collector, source: ExperienceSource, state: Any) -> None:
        if is_url(self.settings.teacher):
            collector.reference = partial(served_logprobs, self._server())
        source.collect = Taught(collector, self.settings.method)

    def _server(self) -> Callable[[Sequence[int]], np.ndarray]:
        task = self.environment.train[0]
        [(_, ids)] = self.theatre.prompts([task])
        first = Example(np.array(ids, np.int32), np.ones(len(ids), bool), task.key)
        teacher = endpoint_teacher(
            self.settings.teacher, self.settings.teacher_name, self.subject.tokenizer, first
        )
        return teacher.logprobs


def served_logprobs(
    logprobs: Callable[[Sequence[int]], np.ndarray], rollouts: Sequence[Rollout]
) -> list[np.ndarray]:
    """What a server says of each rollout's own tokens, zeros where the world wrote."""
    found = []
    for rollout in rollouts:
        whole = logprobs([*rollout.prompt_ids.tolist(), *rollout.token_ids.tolist()])
        own = whole[len(rollout.prompt_ids) - 1 :]
        found.append(np.where(rollout.by_model, own, 0.0).astype(np.float32))
    return found
