"""PPO: the loop, rounds and rewards of `rl`, with critics that are trained beside the policy.

    collector   also asks the critics what they expect, so that GAE makes the credit
    scorer      also says what the critics expect now, so that the loss can teach them
    state       holds policy and critics; the checkpoint has the critics' files beside the policy's

What varies from round to round (the KL coefficient, the multiplier of a cost) follows from the rounds on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rung import dist
from rung.advantages.recipes import Recipe
from rung.batch import Batch, Rollout, TokenScores, collate
from rung.data.pack import pack
from rung.envs.environment import Environment
from rung.errors import UserError
from rung.models.actor_critic import ActorCritic, check_same_tokens, own_critics, shared_heads
from rung.models.decoder import Decoder
from rung.models.hub import resolve
from rung.models.load import load_model
from rung.pipelines.judging import cost_named
from rung.pipelines.recipe import recipe_of
from rung.pipelines.rl import Player, grader_limits, reward_for, rl
from rung.pipelines.setup import Subject
from rung.pipelines.stage import Stage, load_model_of
from rung.rewards.apart import apart
from rung.rewards.calling import is_trusted
from rung.rewards.combine import weighted
from rung.rewards.score import Reward, Score
from rung.rollouts.columns import Graded
from rung.settings_ppo import Ppo
from rung.sources.adaptive import Adaptive, answer_kl
from rung.sources.collector import Collector, ScoreRollouts
from rung.sources.experience import ExperienceSource, example
from rung.train import Metrics, State


def ppo(settings: Ppo, command: str = "ppo") -> Path:
    """Train and return the run folder. Continues the run where `settings.resume` names one."""
    return rl(settings, command, PpoPlayer)


class PpoPlayer(Player):
    settings: Ppo
    part = "actor."

    # -- before it runs ------------------------------------------------------------------------------------

    @staticmethod
    def recipe_for(settings: Any) -> Recipe:
        check(settings)
        recipe = recipe_of(settings)
        critic, cost = settings.critic, settings.cost
        return replace(
            recipe,
            estimator_options={"discount": critic.discount, "trace": critic.trace},
            missing_end_penalty=settings.missing_end_penalty,
            dense_weight=settings.dense.weight if settings.dense.model else 0.0,
            dense_limit=settings.dense.limit,
            multiplier=cost.multiplier if cost.reward else None,
            kl_share=cost.kl_share,
        )

    @staticmethod
    def reward_for(settings: Any, environment: Environment) -> Reward:
        """With a cost both are asked of every answer; only the reward is the score's value."""
        reward = reward_for(settings, environment)
        if not settings.cost.reward:
            return reward
        both = [reward, cost_named(settings.cost.reward)]
        if is_trusted(both[0]) != is_trusted(both[1]):
            both = [apart(each, **grader_limits(settings)) for each in both]
        return weighted(reward=(1.0, both[0]), cost=(0.0, both[1]))

    @staticmethod
    def load(stage: Stage) -> tuple[Subject, State]:
        settings: Any = stage.settings
        subject = load_model_of(stage)
        actor: Any = subject.model
        if not isinstance(actor, Decoder):
            raise UserError(
                f"{settings.model} is of a family rung does not decode itself, and a critic needs such a trunk. "
                "`rung doctor` lists them."
            )
        names = ["value", "cost"] if settings.cost.reward else ["value"]
        if settings.critic.trunk == "shared":
            critics = shared_heads(names, actor, subject.device, stage.latest)
        else:
            start = settings.critic.start or settings.model
            critics = own_critics(names, start, subject.dtype, subject.device, stage.latest)
            for critic in critics.values():
                trunk: Any = critic.trunk
                check_same_tokens(start, trunk.config.vocabulary, actor.config.vocabulary)
                trunk.checkpointing = settings.recompute
        both = ActorCritic(actor, critics)

        def write(folder: Path) -> None:
            subject.write(folder)
            both.write(folder, subject.tokenizer, resolve(settings.model))

        fp16 = subject.dtype == torch.float16
        factors = {"critic.": settings.critic.rate}
        return replace(subject, write=write), State(both, settings.optimizer, fp16=fp16, factors=factors)

    # -- while it runs -------------------------------------------------------------------------------------

    def equip(self, collector: Collector, source: ExperienceSource, state: State) -> None:
        settings = self.settings
        self.both: Any = state.model
        collector.values = self._value_rollouts
        if settings.dense.model:
            collector.dense = partial(self._score_rollouts, self._frozen(settings.dense.model))
        self.adaptive = Adaptive(settings.kl, settings.cost, lambda round: self.source.store.read(round))
        collector.adapted = self.adaptive
        if settings.kl.stop:
            source.cut_short = self._moved_enough

    def _frozen(self, name: str) -> Decoder:
        model: Any = load_model(name, self.subject.dtype, self.subject.device)
        check_same_tokens(name, model.config.vocabulary, self.both.actor.config.vocabulary)
        return model.requires_grad_(False).eval()

    def _old_logprobs(self) -> ScoreRollouts | None:
        """Always the trainer's own: against the reference, scored the same way, the start's KL is exactly 0."""
        return super()._old_logprobs() or partial(self._score_rollouts, self.model)

    def _opened(self, run: Any, step: int) -> None:
        rows = run.metrics() if dist.rank() == 0 else []
        begun = [row["step"] - 1 for row in rows if "round" in row]
        self.source.starts = dist.gather_objects(begun)
        super()._opened(run, step)

    def _moved_enough(self) -> bool:
        """Whether the last update found the policy further than `kl.stop` from where its round began."""
        last = self.run.metrics()[-1:] if dist.rank() == 0 else []
        return any(dist.gather_objects([row.get("update_kl", 0.0) > self.settings.kl.stop for row in last]))

    def _began(self, collector: Collector, round: int, graded: list[Graded]) -> Metrics:
        recipe = self.adaptive(round, self.recipe)
        metrics = super()._began(collector, round, graded) | {"reward_beta": recipe.reward_beta}
        if recipe.multiplier is not None:
            metrics["cost_multiplier"] = recipe.multiplier
        return metrics | ({"round_kl": answer_kl(graded)} if recipe.needs_reference else {})

    def _score(self, model: Any, batch: Batch) -> TokenScores:
        scores = super()._score(model, batch)
        return replace(scores, values=scores.values | self.both.values(batch))

    def heads(self) -> dict[str, nn.Module]:
        return self.both.heads

    @torch.no_grad()
    def _value_rollouts(self, rollouts: Sequence[Rollout]) -> dict[str, list[np.ndarray]]:
        """What each critic expects before each of a rollout's own tokens, zeros where the world wrote, `[T]`."""
        found = {name: [np.zeros(len(r), np.float32) for r in rollouts] for name in self.both.critic}
        zero = [np.zeros(len(rollout), np.float32) for rollout in rollouts]
        examples = [example(Graded(r, Score(0), z, z)) for r, z in zip(rollouts, zero, strict=True)]
        training = self.both.training
        self.both.eval()
        for members in pack([len(e) for e in examples], max(self.settings.micro_tokens, *map(len, examples))):
            batch = collate([examples[i] for i in members]).to(self.subject.device)
            for name, value_M in self.both.all_values(batch).items():
                lengths = [int(rollouts[i].by_model.sum()) for i in members]
                pieces = value_M.float().cpu().split(lengths)
                for i, piece in zip(members, pieces, strict=True):
                    found[name][i][rollouts[i].by_model] = piece.numpy()
        self.both.train(training)
        return found


def check(settings: Ppo) -> None:
    """What cannot work, or would change nothing."""
    critic, kl, cost, dense = settings.critic, settings.kl, settings.cost, settings.dense
    if settings.parts.estimator is not None:
        raise UserError(
            f"--parts.estimator {settings.parts.estimator} is a baseline without a critic. Leave it out, or use "
            "rung rl, which needs none."
        )
    if critic.trunk == "shared" and critic.start:
        raise UserError(
            f"--critic.start {critic.start} changes nothing on a shared trunk. Leave it out or write "
            "--critic.trunk own."
        )
    if not 0 <= critic.discount <= 1 or not 0 <= critic.trace <= 1:
        raise UserError(
            f"--critic.discount is {critic.discount} and --critic.trace {critic.trace}; each lies between 0 and 1."
        )
    if kl.target and settings.parts.reward_beta == 0:
        raise UserError(
            f"--kl.target {kl.target} steers parts.reward-beta by factors, and from 0 it never moves. "
            "Write --parts.reward-beta 0.05 or leave --kl.target out."
        )
    if not (kl.target >= 0 and kl.stop >= 0 and kl.horizon >= 1):
        raise UserError(
            "--kl.target and --kl.stop are nats and --kl.horizon a number of answers; none is below 0."
        )
    if kl.stop and settings.staleness:
        raise UserError("--kl.stop ends rounds early, so none can be sampled ahead. Write --staleness 0.")
    if dense.weight == 0 and dense.model:
        raise UserError("--dense.weight 0 changes nothing. Leave --dense.model out or give it a weight.")
    if not dense.limit > 0:
        raise UserError(
            f"--dense.limit is {dense.limit}, and it is the largest size of a token's pay: above 0."
        )
    if not (
        0 < cost.multiplier <= cost.largest
        and cost.episodes >= 1
        and 0 <= cost.kl_share <= 1
        and cost.rate > 0
        and isfinite(cost.limit)
    ):
        raise UserError(
            f"--cost.multiplier {cost.multiplier} must lie above 0 and not above --cost.largest {cost.largest}, "
            f"--cost.episodes {cost.episodes} be 1 or more, --cost.kl-share {cost.kl_share} a share, --cost.rate "
            f"{cost.rate} above 0 and --cost.limit {cost.limit} a number."
        )
    for group, given, needed in (("cost", cost, "reward"), ("dense", dense, "model")):
        if not getattr(given, needed) and given != type(given)():
            raise UserError(
                f"Without --{group}.{needed} the other --{group} options change nothing. Give it, or leave them out."
            )
