"""Reinforcement learning from settings to a finished run folder; `stage` does what every pipeline shares.

    environment -> collector (play, grade, credit) -> experience source -> policy gradient

In the synchronous run the engine samples from the very weights that train. With staleness it has a copy of its
own and samples in a thread while the learner learns. Other samplers are sent the weights (`sampler`).
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rung import dist
from rung.advantages.recipes import Recipe
from rung.batch import Batch, Rollout, TokenScores, collate
from rung.config import to_dict
from rung.data.pack import pack
from rung.data.tokens import token_policy
from rung.diagnose.facts import Facts, facts_of, round_facts
from rung.diagnose.health import Health
from rung.envs.curriculum import counted, selected
from rung.envs.environment import Environment
from rung.envs.load import load_environment
from rung.errors import RunStopped, UserError
from rung.methods import find
from rung.models.decoder import Decoder
from rung.models.fallback import Model
from rung.models.folder import read_generation_config
from rung.models.hub import resolve
from rung.models.load import load_model
from rung.models.policy import score, trained_sites
from rung.pipelines.heldout import Heldout
from rung.pipelines.judging import reward_named
from rung.pipelines.recipe import compared, recipe_of
from rung.pipelines.sampler import (
    TrainingSampler,
    check_sampler,
    give_weights,
    gives_entropy,
    opened_sampler,
    rest,
    sampler_on,
)
from rung.pipelines.setup import Subject
from rung.pipelines.stage import Stage, console, load_stage, open_stage, run_stage, same_start
from rung.rewards.score import Reward, Score
from rung.rewards.workers import Graders
from rung.rollouts.columns import Graded
from rung.rollouts.episodes import Ask, Theatre
from rung.rollouts.request import Sampling
from rung.rollouts.store import RolloutStore
from rung.settings_rl import Rl
from rung.sources.collector import Collector, ScoreRollouts
from rung.sources.experience import ExperienceSource, example
from rung.train import Method, Metrics


def rl(settings: Rl, command: str = "rl", kind: type[Player] | None = None) -> Path:
    """Train and return the run folder. Continues the run where `settings.resume` names one."""
    kind = kind or Player
    stage = open_stage(command, settings)
    recipe = kind.recipe_for(settings)
    environment = load_environment(
        settings.env, seed=settings.seed, train_size=settings.train_tasks, test_size=settings.test_tasks
    )
    if settings.difficulty_from:
        environment = of_right_difficulty(environment, settings)
    reward = kind.reward_for(settings, environment)
    subject, state = kind.load(stage)
    model: Any = subject.model
    check_sampler(
        settings, model, needs_entropy=f"--method {settings.method}" if recipe.needs_entropy else ""
    )
    if settings.staleness and dist.world() > 1:  # two threads of a rank would mix up their messages
        raise UserError(
            "--staleness needs a single process. Write --staleness 0, or start it without torchrun."
        )
    updates = settings.updates or recipe.updates
    limits = grader_limits(settings)
    with (
        Graders(reward, **limits) as graders,
        Graders(environment.reward, **limits) as verifiers,
        opened_sampler(settings, subject, model) as engine,
    ):
        player = kind(settings, recipe, environment, subject, model, engine, graders, verifiers, updates)
        return player.train(stage, state)


def grader_limits(settings: Rl) -> dict[str, Any]:
    """Of one call of a reward in a worker."""
    return dict(
        wall_seconds=settings.grader_seconds,
        cpu_seconds=math.ceil(settings.grader_seconds),
        memory_bytes=int(settings.grader_memory * 1e9),
    )


def reward_for(settings: Rl, environment: Environment) -> Reward:
    """What is trained on."""
    return reward_named(settings.reward) if settings.reward else environment.reward


def of_right_difficulty(environment: Environment, settings: Rl) -> Environment:
    """The training tasks that an earlier run's rollouts do not show to be too easy or too hard."""
    store = RolloutStore(Path(settings.difficulty_from))
    if not store.rounds():
        raise UserError(
            f"--difficulty-from {settings.difficulty_from} holds no rollouts; give the folder of a run of rung rl."
        )
    rows = store.scan(["task", "reward"])
    results = counted((row["task"], row["reward"] >= 1) for row in rows if row["reward"] is not None)
    kept = selected(environment.train, results, *settings.pass_rates)
    return replace(environment, train=[environment.train[index] for index in kept])


@dataclass
class Player:
    """The parts of one run, put together. PPO's (`ppo.py`) loads, scores and equips more."""

    part: ClassVar[str] = ""  # how the names of the model's weights begin in the state
    source_kind: ClassVar[type[ExperienceSource]] = ExperienceSource
    settings: Rl
    recipe: Recipe
    environment: Environment
    subject: Subject
    model: Model  # the subject's
    engine: TrainingSampler
    graders: Graders
    verifiers: (
        Graders  # the environment's own reward: what held-out tasks are judged by, whatever is trained on
    )
    updates: int
    heldout: Heldout = field(default_factory=Heldout)

    @staticmethod
    def recipe_for(settings: Any) -> Recipe:
        return recipe_of(settings)

    @staticmethod
    def reward_for(settings: Any, environment: Environment) -> Reward:
        return reward_for(settings, environment)

    @staticmethod
    def load(stage: Stage) -> tuple[Subject, Any]:
        return load_stage(stage)

    def train(self, stage: Stage, state: Any) -> Path:
        settings, recipe, model = self.settings, self.recipe, self.model
        self.health, self.state, self.stage = Health(), state, stage
        model.batch_invariant = settings.batch_invariant
        reference = self._start() if recipe.needs_reference else None
        self.theatre = self._theatre(self.engine, settings.temperature, settings.top_p)
        self._check_tasks()
        collector = Collector(
            self.theatre, self.graders, recipe, self.environment.train, settings.prompts, settings.seed,
            waves=settings.waves,
            reference=partial(self._score_rollouts, reference) if reference is not None else None,
            old=self._old_logprobs(),
            hidden=self._hidden_states if recipe.needs_hidden else None,
        )  # fmt: skip
        source = self.source_kind(
            collector,
            RolloutStore(Path(), self._decode),
            updates=self.updates, epochs=settings.epochs, micro_tokens=settings.micro_tokens,
            share_prompts=settings.share_prompts and isinstance(model, Decoder),
            credit_alone=self._credit_alone(),
            seed=settings.seed, rank=dist.rank(), world=dist.world(),
            rounds=settings.rounds, staleness=settings.staleness, freeze=self._freeze,
            began=partial(self._began, collector),
        )  # fmt: skip
        self.source = source
        self.equip(collector, source, state)
        config = {
            "data_digest": self.environment.digest(),
            "recipe": {**to_dict(recipe)},
            "loss": self._loss_in_words(),
            **self._recorded(),
        }
        try:
            return run_stage(
                stage, self.subject, state, source, partial(self._score, model),
                self._loss(),
                steps=settings.rounds * self.updates,
                config=config,
                lines=self._lines(),
                mean_context=settings.max_tokens,
                evaluate=self._evaluate if len(self.environment.test) else None,
                opened=self._opened,
                finding=self._finding,
                part=self.part,
            )  # fmt: skip
        finally:
            source.close()

    def _start(self) -> Model:
        """The frozen reference: the weights the run started from, also where it is resumed."""
        if self.recipe.offline:  # it is asked once, before the first step
            return self.model
        same_start(self.stage, self.subject)
        model: Any = load_model(self.settings.model, self.subject.dtype, self.subject.device)
        model.batch_invariant = self.settings.batch_invariant
        return model.requires_grad_(False).eval()

    def equip(self, collector: Collector, source: ExperienceSource, state: Any) -> None:
        """What else a round is made of; nothing here."""

    def _recorded(self) -> dict[str, Any]:
        """What else config.json says of the run; nothing here."""
        return {}

    def _loss(self) -> Method:
        return partial(find(self.recipe.loss), **self.recipe.loss_options)

    def _credit_alone(self) -> bool:
        return self.recipe.credit_alone

    def _loss_in_words(self) -> str:
        recipe = self.recipe
        return f"{recipe.loss} with {dict(recipe.loss_options) or 'its defaults'}, credit {recipe.estimator}"

    def _finding(self, run: Any) -> str:
        """What the run's metrics show besides its health, in a sentence; nothing here."""
        return ""

    def heads(self) -> dict[str, nn.Module]:
        """What else is read off the policy's states; nothing here."""
        return {}

    def _old_logprobs(self) -> ScoreRollouts | None:
        """Where the ratio of a round's updates is measured from; None: from the policy of the moment itself.

        A round that was sampled ahead is as old as its sampler, and the clip must know.
        """
        if self.settings.staleness:
            return lambda rollouts: [rollout.sampler_logprob for rollout in rollouts]
        return partial(self._score_rollouts, self.model) if self.updates > 1 else None

    def _opened(self, run: Any, step: int) -> None:
        """The run folder is there, at `step`."""
        self.run = run
        self.source.store = RolloutStore(run.path, self._decode)
        if dist.rank() == 0:
            self.source.resume(step)
        dist.wait()
        self.heldout = Heldout.resume(run.path, step, writes=dist.rank() == 0)
        for round in self.source.store.rounds()[:-1] if step % self.updates else self.source.store.rounds():
            self.health.feed(self._facts(round, compared(self.recipe, self.source.store.read(round))))

    def _facts(self, round: int, graded: Sequence[Graded]) -> Facts:
        return facts_of(round, graded, heldout=self.heldout.before(round, self.updates))

    def _theatre(self, engine: TrainingSampler, temperature: float, top_p: float = 1.0) -> Theatre:
        settings, tokenizer = self.settings, self.subject.tokenizer
        policy = token_policy(tokenizer, read_generation_config(resolve(settings.model)) or None)
        sampling = Sampling(
            settings.max_tokens,
            temperature,
            top_p,
            min_tokens=settings.min_tokens,
            entropy=gives_entropy(engine),
        )
        return Theatre(engine, self.environment, tokenizer, policy, sampling, max_length=settings.max_length)

    def _check_tasks(self) -> None:
        """Find out what is wrong with the tasks before the run folder exists: the first of them, and the tests."""
        train, test, settings = self.environment.train, self.environment.test, self.settings
        if not len(train):
            raise UserError(f"The environment {settings.env} has no task to train on.")
        first = min(len(train), max(settings.prompts, 256))
        self.theatre.check([train[i] for i in range(first)])
        self.theatre.check([test[i] for i in range(min(len(test), settings.test_tasks))])

    def _decode(self, ids: list[int]) -> str:
        return str(self.subject.tokenizer.decode(ids))

    # -- while it runs -------------------------------------------------------------------------------------

    def _freeze(self, step: int) -> None:
        give_weights(self.engine, self.model, step)

    def _began(self, collector: Collector, round: int, graded: list[Graded]) -> Metrics:
        """What is said of a round when its first update begins: facts to log, findings to warn of."""
        if not self.settings.staleness:
            rest(self.engine)
        graded = list(compared(self.recipe, graded))
        for finding in self.health.feed(self._facts(round, graded)):
            if dist.rank() == 0:
                console.print(f"finding  {finding}", highlight=False, markup=False, soft_wrap=True)
            if finding.severity == "stop" and self.settings.findings == "stop":
                raise RunStopped(f"Stopped in round {round}: {finding}", 1)
        return round_facts(graded) | (collector.seconds or {})

    def _score(self, model: Model, batch: Batch) -> TokenScores:
        settings = self.settings
        credit_M = batch.column("advantage") * batch.column("weight")
        return score(
            model, batch, temperature=settings.temperature or 1.0, head_float32=settings.head_float32,
            entropy=bool(self.recipe.loss_options.get("entropy_bonus")), credit_M=credit_M,
            mean_over="sequence" if self._aggregation() == "sequence" else "token", heads=self.heads(),
        )  # fmt: skip

    def _aggregation(self) -> str:
        """What the loss is a mean over: as set, else the loss's own default."""
        own = inspect.signature(find(self.recipe.loss)).parameters.get("aggregation")
        return str(self.recipe.loss_options.get("aggregation", own.default if own else ""))

    @torch.no_grad()
    def _score_rollouts(self, model: Model, rollouts: Sequence[Rollout]) -> list[np.ndarray]:
        """Log-probs of each rollout's own tokens, zeros where the world wrote, `[T]` float32."""
        temperature, head_float32 = self.settings.temperature or 1.0, self.settings.head_float32

        def logprobs(batch: Batch) -> tuple[Tensor, Tensor]:
            scores = score(model, batch, temperature=temperature, head_float32=head_float32)
            return scores.logprob_M, scores.document_M

        return self._read_rollouts(model, rollouts, logprobs)

    @torch.no_grad()
    def _hidden_states(self, rollouts: Sequence[Rollout]) -> list[np.ndarray]:
        """The state that entered the output head and predicted each of the policy's own tokens, `[T, D]` float32."""

        def states(batch: Batch) -> tuple[Tensor, Tensor]:
            sites = trained_sites(self.model, batch)
            return sites.states_MD.float(), sites.document_M

        return self._read_rollouts(self.model, rollouts, states)

    def _read_rollouts(
        self, model: Model, rollouts: Sequence[Rollout], read: Callable[[Batch], tuple[Tensor, Tensor]]
    ) -> list[np.ndarray]:
        """What `read` says of the model's own tokens, laid back into their rollouts; zeros where the world wrote."""
        nothing = [np.zeros(len(rollout), np.float32) for rollout in rollouts]
        examples = [
            example(Graded(r, Score(0), zero, zero)) for r, zero in zip(rollouts, nothing, strict=True)
        ]
        found: dict[int, np.ndarray] = {}
        training = model.training
        model.eval()
        for members in pack([len(e) for e in examples], max(self.settings.micro_tokens, *map(len, examples))):
            batch = collate([examples[i] for i in members]).to(self.subject.device)
            values_M, document_M = (part.cpu().numpy() for part in read(batch))
            for place, i in enumerate(members):
                found[i] = np.zeros((len(rollouts[i]), *values_M.shape[1:]), np.float32)
                found[i][rollouts[i].by_model] = values_M[document_M == place]
        model.train(training)
        return [found[i] for i in range(len(rollouts))]

    def _evaluate(self) -> Metrics:
        """Held-out tasks, one answer each, graded as in training."""
        began = time.perf_counter()
        if self.settings.staleness:  # the sampler is at work on older weights, in its thread
            engine: TrainingSampler = sampler_on(self.settings, self.subject, self.model)
        else:
            engine = self.engine
            give_weights(engine, self.model, engine.version)
        tasks = [
            self.environment.test[i] for i in range(min(len(self.environment.test), self.settings.test_tasks))
        ]
        asks = [Ask(task, i, 7_919 + i) for i, task in enumerate(tasks)][dist.rank() :: dist.world()]
        episodes = self._theatre(engine, self.settings.eval_temperature).play(asks)
        own = self.verifiers.grade([episode.attempt() for episode in episodes])
        rest(engine)
        scores = [verdict.value for verdict in dist.gather_objects(own) if isinstance(verdict, Score)]
        if scores and min(scores) >= 0 and max(scores) <= 1:
            self.heldout.add(self.state.step, scores)
        return {
            "heldout_tasks": float(len(scores)),
            "heldout_score": float(np.mean(scores)) if scores else float("nan"),
            "heldout_solved": float(np.mean([value >= 1 for value in scores])) if scores else float("nan"),
            "eval_seconds": time.perf_counter() - began,
        }

    def _lines(self) -> list[tuple[str, str]]:
        s, r = self.settings, self.recipe
        return [
            ("tasks", f"{self.environment.name}: {len(self.environment.train):,} to train on, "
                      f"{len(self.environment.test):,} held out"),
            ("rounds", f"{s.rounds}, each {s.prompts} prompts x {r.group_size} answers of up to {s.max_tokens} tokens, "
                       f"{self.updates} update{'s' * (self.updates > 1)} a round"),
        ]  # fmt: skip
