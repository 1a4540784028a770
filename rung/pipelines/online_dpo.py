"""Online and iterative DPO (2402.04792): the loop of `rl`, with a pair for each prompt and a preference loss.

    environment -> collector (play, grade) -> the best and the worst answer -> preference loss against the reference

The reference is the policy as it starts, adapters included. With `renew_every` it becomes the policy of the moment
every so many rounds (iterative DPO); then it is kept in each checkpoint beside the policy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rung import dist
from rung.advantages.recipes import Recipe
from rung.batch import Batch, TokenScores
from rung.config import to_dict
from rung.errors import UserError
from rung.methods import find
from rung.models.fallback import Model
from rung.models.policy import score
from rung.pipelines.displacement import finding
from rung.pipelines.preference import REFERENCE_FREE, started, tried
from rung.pipelines.recipe import recipe_of
from rung.pipelines.rl import Player, rl
from rung.pipelines.setup import Subject
from rung.pipelines.stage import Stage, console, load_stage, same_start
from rung.rollouts.columns import Graded
from rung.run import Run
from rung.settings_online_dpo import OnlineDpo
from rung.settings_rl import LossParts
from rung.sources.collector import Collector, ScoreRollouts
from rung.sources.experience import ExperienceSource
from rung.sources.online_pairs import PairSource, counts, paired
from rung.train import Metrics

KEPT = "reference/weights.safetensors"  # in a checkpoint, where the reference is not the start


def online_dpo(settings: OnlineDpo) -> Path:
    """Train and return the run folder. Continues the run where `settings.resume` names one."""
    return rl(settings, "online-dpo", PairPlayer)


def recipe_for(settings: OnlineDpo) -> Recipe:
    """The sizes of a round and the loss. Credit is a verdict between two answers, so no part of credit applies."""
    given = [name for name, value in to_dict(settings.parts).items() if value is not None]
    if given:
        raise UserError(
            f"--parts.{given[0].replace('_', '-')} changes how a reward becomes credit, and here the better of two "
            "answers is learned. Leave it out."
        )
    if settings.group is not None and settings.group < 2:
        raise UserError(f"--group {settings.group} makes no pair. Write --group 2 or more.")
    if settings.tie < 0 or settings.missing_end_penalty < 0 or settings.renew_every < 0:
        raise UserError("--tie, --missing-end-penalty and --renew-every are not below 0. Write 0 for none.")
    if settings.staleness:
        raise UserError(
            f"--staleness {settings.staleness} samples rounds ahead by their number, and a round in which all tie is "
            "replaced by the next. Write --staleness 0."
        )
    if settings.renew_every and settings.method in REFERENCE_FREE:
        raise UserError(
            f"--renew-every {settings.renew_every} changes nothing: --method {settings.method} has no reference. "
            "Leave it out."
        )
    options = {name: value for name, value in to_dict(settings.loss).items() if value is not None}
    known = inspect.signature(find(settings.method)).parameters
    for name in options:
        if name not in known:
            raise UserError(
                f"--loss.{name.replace('_', '-')} is no option of --method {settings.method}. Leave it out."
            )
    try:
        tried(partial(find(settings.method), **options))
    except UserError as error:  # as the other commands name the option
        raise UserError(str(error).replace("--method.", "--loss.")) from None
    plain: Any = settings
    as_rl = replace(plain, method="grpo", loss=LossParts(), group=settings.group or 2)
    return replace(recipe_of(as_rl), loss=settings.method, loss_options=options, estimator="group_mean")


class PairPlayer(Player):
    settings: OnlineDpo
    source_kind = PairSource
    reference: Reference | None

    @staticmethod
    def recipe_for(settings: Any) -> Recipe:
        return recipe_for(settings)

    @staticmethod
    def load(stage: Stage) -> tuple[Subject, Any]:
        subject, state = load_stage(stage)
        same_start(stage, subject)
        return subject, state

    def train(self, stage: Stage, state: Any) -> Path:
        self.reference = None
        if self.settings.method not in REFERENCE_FREE:
            self.reference = Reference.of(stage, self.settings, self.subject)
            self.subject = replace(self.subject, write=partial(write_both, self.subject, self.reference))
        return super().train(stage, state)

    def equip(self, collector: Collector, source: ExperienceSource, state: Any) -> None:
        collector.reference = None  # asked in the learner's micro-batches instead
        assert isinstance(source, PairSource)
        source.collect = Paired(collector, self.settings.tie, self.settings.missing_end_penalty)
        source.tell = say
        source.reference, source.began_at = self.reference, self._renew

    def _renew(self, position: int) -> None:
        every = self.settings.renew_every
        if self.reference is not None and every and position and position % every == 0:
            self.reference.renew(self.model)

    def _start(self) -> Model:
        return self.model  # the base class's reference is not asked

    def _old_logprobs(self) -> ScoreRollouts | None:
        return None

    def _score(self, model: Model, batch: Batch) -> TokenScores:
        """At temperature 1, whatever was sampled at: the pair is of the model's own distribution."""
        return score(model, batch, head_float32=self.settings.head_float32)

    def _began(self, collector: Collector, round: int, graded: list[Graded]) -> Metrics:
        return super()._began(collector, round, graded) | counts(graded)

    def _loss_in_words(self) -> str:
        options = dict(self.recipe.loss_options) or "its defaults"
        return f"{self.recipe.loss} with {options}, mean over the pairs of the step"

    def _finding(self, run: Run) -> str:
        return finding(run)


@dataclass
class Paired:
    """A collector whose rounds are pairs."""

    collect: Callable[[int], list[Graded]]
    tie: float
    missing_end_penalty: float

    def __call__(self, round: int) -> list[Graded]:
        return paired(self.collect(round), self.tie, self.missing_end_penalty)


@dataclass
class Reference:
    """The frozen policy that log-ratios are taken against."""

    model: Any
    head_float32: bool
    device: torch.device
    taken: tuple[str, ...] = ()  # the weights that are no longer the start's, by name

    @staticmethod
    def of(stage: Stage, settings: OnlineDpo, subject: Subject) -> Reference:
        """The start, loaded anew, or what a checkpoint says that the reference had become."""
        start: Any = started(settings).model
        start.batch_invariant = settings.batch_invariant
        start.requires_grad_(False).eval()
        reference = Reference(start, settings.head_float32, subject.device)
        if stage.latest is not None and (stage.latest / KEPT).exists():
            reference.take(load_file(stage.latest / KEPT))
        return reference

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        scores = score(self.model, batch.to(self.device), head_float32=self.head_float32)
        return scores.logprob_M.float().cpu()

    def renew(self, policy: Any) -> None:
        """Take the weights of the policy as it is now."""
        self.take({name: weight for name, weight in policy.named_parameters() if weight.requires_grad})

    @torch.no_grad()
    def take(self, weights: dict[str, Tensor]) -> None:
        own = dict(self.model.named_parameters())
        for name, weight in weights.items():
            own[name].copy_(weight)
        self.taken = tuple(weights)

    def write(self, folder: Path) -> None:
        if self.taken:
            own = dict(self.model.named_parameters())
            (folder / KEPT).parent.mkdir()
            save_file({name: own[name].detach().cpu() for name in self.taken}, folder / KEPT)


def write_both(subject: Subject, reference: Reference, folder: Path) -> None:
    subject.write(folder)
    reference.write(folder)


def say(line: str) -> None:
    if dist.rank() == 0:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
