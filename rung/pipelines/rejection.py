"""Rejection sampling from settings to a finished run folder: the data of `rung rft` and `rung ssd`.

    environment -> stages of (tasks that lack answers -> sampled, graded, kept on disk) -> selection -> demonstrations

    rollouts/round-000000.parquet     every attempt with its tokens and verdict, as `rung rl` keeps them
    attempts/round-000000.jsonl       the same as conversations
    demonstrations.jsonl              what `rung sft` takes; written last, whole or not at all
    report.json                       where every attempt went, by difficulty

Which tasks a round asks and every die follow from the settings and the rounds before it, so an interrupted run goes
on where it stopped and ends in the same bytes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rung.config import to_dict
from rung.diagnose.facts import round_facts
from rung.envs.environment import Environment, Task
from rung.envs.load import load_environment
from rung.errors import RunStopped, UserError
from rung.interrupt import Interrupt, interruptible
from rung.pipelines.evaluate_local import LocalPlayer
from rung.pipelines.hints import WORD, hinted, load_hint
from rung.pipelines.stage import console
from rung.rewards.score import Score, Verdict
from rung.rewards.user import load_reward
from rung.rewards.workers import Graders
from rung.rollouts.columns import Graded
from rung.rollouts.engine import sample_seed
from rung.rollouts.episodes import Ask, Episode
from rung.rollouts.request import Sampling, check
from rung.rollouts.store import RolloutStore, rollout_id
from rung.run import Run, write_atomically
from rung.settings_self_training import Rft
from rung.sources.collector import GradedAsTheyEnd
from rung.sources.rejection import Rule, Selection, Tried, by_difficulty, lacking, select, unsolved

DEMONSTRATIONS = "demonstrations.jsonl"


@dataclass(frozen=True)
class StageOfSampling:
    name: str
    temperature: float
    hinted: bool = False


def rft(settings: Rft, command: str = "rft") -> Path:
    """Sample, grade, select; return the run folder. Raises UserError with the counts where nothing is left."""
    run = _reopened(settings) if settings.resume else None
    environment = load_environment(settings.env, seed=settings.seed, train_size=settings.tasks, test_size=0)
    tasks = [environment.train[i] for i in range(min(settings.tasks, len(environment.train)))]
    if not tasks:
        raise UserError(f"The environment {settings.env} has no training task to ask.")
    reward = load_reward(settings.reward) if settings.reward else environment.reward
    player = _player(settings, environment)
    player.theatre.check(_all_asked(settings, tasks))
    config = {
        "command": command,
        "settings": to_dict(settings),
        "start_digest": player.model["digest"],
        "data_digest": environment.digest(),
    }
    if run is None:
        run = Run.create(settings.out or f"runs/{command}-{time.strftime('%Y%m%d-%H%M%S')}", config)
    else:
        _hold_to(run, config)
    _tell(f"run      {run.path}")
    limits: dict[str, Any] = dict(
        wall_seconds=settings.grader_seconds,
        cpu_seconds=math.ceil(settings.grader_seconds),
        memory_bytes=int(settings.grader_memory * 1e9),
    )
    try:
        with Graders(reward, **limits) as graders, interruptible() as interrupt:
            sampler = Sampler(settings, run, environment, tasks, player, graders, interrupt)
            _conclude(settings, environment, run, sampler.everything())
    except RunStopped as stop:
        run.stop(str(stop))
        raise RunStopped(f"{stop} Continue with: rung {command} --resume {run.path}", stop.code) from None
    except BaseException as error:
        run.fail(f"{type(error).__name__}: {error}")
        raise
    return run.path


def rule_of(settings: Rft) -> Rule:
    return Rule(
        settings.select, settings.threshold, settings.per_task, settings.same, settings.drop_stubs,
        settings.shortest_share, WORD,
    )  # fmt: skip


def stages_of(settings: Rft) -> list[StageOfSampling]:
    plain = [StageOfSampling(f"temperature {t:g}", t) for t in settings.temperature]
    # A stage of the same temperature again needs a name of its own.
    names = [f"{s.name} ({i + 1})" if s in plain[:i] else s.name for i, s in enumerate(plain)]
    stages = [replace(stage, name=name) for stage, name in zip(plain, names, strict=True)]
    return (
        [*stages, StageOfSampling("hinted", settings.temperature[0], True)]
        if settings.rationalise
        else stages
    )


@dataclass
class Sampler:
    settings: Rft
    run: Run
    environment: Environment
    tasks: Sequence[Task]
    player: LocalPlayer
    graders: Graders
    interrupt: Interrupt

    def everything(self) -> list[Tried]:
        """Every attempt of every stage, those on disk read and the missing ones made."""
        self.store = RolloutStore(self.run.path, lambda ids: str(self.player.theatre.tokenizer.decode(ids)))
        found: list[Tried] = []
        round = 0
        for number, stage in enumerate(stages_of(self.settings)):
            wanted = self._wanted(stage, found)
            for start in range(0, len(wanted), self.settings.prompts):
                places = wanted[start : start + self.settings.prompts]
                if not self.store.path(round).exists():
                    if self.interrupt.asked:
                        raise RunStopped(f"Interrupted after {round} rounds of sampling.", 130)
                    self._make(round, number, stage, places)
                found += read_attempts(self._attempts(round))
                round += 1
        return found

    def _wanted(self, stage: StageOfSampling, found: Sequence[Tried]) -> list[int]:
        keys = [task.key for task in self.tasks]
        if stage.hinted:
            return unsolved(keys, found, rule_of(self.settings))
        return lacking(keys, found, rule_of(self.settings))

    def _make(self, round: int, number: int, stage: StageOfSampling, places: Sequence[int]) -> None:
        """Sample, grade and keep a round. Its Parquet file comes last and says that all of it is there."""
        answer_of = load_hint(self.settings.hint)
        theatre, count = self.player.theatre, self.settings.samples
        # What earlier rounds left in the cache would change the last bits, and a resumed run has none of it.
        self.player.sampler.refresh(0, self.player.model["digest"])
        theatre.sampling = replace(theatre.sampling, temperature=stage.temperature)
        asks = []
        for place in places:
            task = self.tasks[place]
            asked = hinted(task, answer_of) if stage.hinted else task
            group = number * len(self.tasks) + place
            asks += [Ask(asked, group, sample_seed(self.settings.seed, group, j)) for j in range(count)]
        grading = GradedAsTheyEnd(self.graders, asks)
        episodes = theatre.play(asks, grading)
        verdicts = grading.verdicts()
        originals = [self.tasks[place] for place in places for _ in range(count)]
        tried = [
            self._tried(rollout_id(round, i), stage, *one)
            for i, one in enumerate(zip(originals, episodes, verdicts, strict=True))
        ]
        graded = [_graded(episode, verdict) for episode, verdict in zip(episodes, verdicts, strict=True)]
        write_attempts(self._attempts(round), tried)
        self.run.log(round + 1, round_facts(graded, self.settings.threshold))
        self.store.write(round, graded)
        right = sum(one.score is not None and one.score >= self.settings.threshold for one in tried)
        _tell(f"round {round}: {stage.name}, {len(places)} tasks, {len(asks)} answers, {right} right")

    def _attempts(self, round: int) -> Path:
        return self.run.path / "attempts" / f"round-{round:06d}.jsonl"

    def _tried(
        self, rollout: str, stage: StageOfSampling, task: Task, episode: Episode, verdict: Verdict
    ) -> Tried:
        assert episode.last_turn is not None and episode.last_turn.finish
        turns = episode.messages[len(task.messages) :]
        return Tried(
            task=task.key, rollout=rollout, stage=stage.name, finish=episode.last_turn.finish,
            score=self._score(verdict), messages=(*task.messages, *turns), asked=len(task.messages),
            hinted=stage.hinted, graded=type(verdict).__name__.lower(),
        )  # fmt: skip

    def _score(self, verdict: Verdict) -> float | None:
        if not isinstance(verdict, Score):
            return None
        part = self.settings.part
        if part and part not in verdict.parts:
            raise UserError(
                f"--part {part}: this score has the parts {', '.join(sorted(verdict.parts)) or 'none'}; name one of "
                "them, or leave it out to judge by the score itself."
            )
        return float(verdict.parts[part] if part else verdict.value)


# ---- on disk ----


def write_attempts(path: Path, tried: Sequence[Tried]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in tried))


def read_attempts(path: Path) -> list[Tried]:
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [Tried(**{**row, "messages": tuple(row["messages"])}) for row in rows]


def attempts_of(run: str | Path) -> Iterator[Tried]:
    """Every attempt of a run, in order."""
    for path in sorted((Path(run) / "attempts").glob("round-*.jsonl")):
        yield from read_attempts(path)


def _conclude(settings: Rft, environment: Environment, run: Run, tried: list[Tried]) -> None:
    selection = select(tried, rule_of(settings))
    report = report_of(settings, tried, selection)
    write_atomically(run.path / "report.json", json.dumps(report, indent=2) + "\n")
    for name, row in report["difficulty"].items():
        line = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in row.items())
        _tell(f"solved {name}: {line}")
    _tell(str(selection.counts))
    if not selection.kept:
        raise UserError(
            f"Nothing is left to train on. Of {selection.counts}. Ask easier tasks (--env) or more of them (--tasks), "
            "sample more (--samples), allow longer answers (--max-tokens), or lower --threshold; every attempt is in "
            f"{run.path / 'attempts'}."
        )
    tools = {"tools": list(environment.tools)} if environment.tools else {}
    rows = (
        {"messages": one.messages, **tools, "task": one.task, "score": one.score, "stage": one.stage,
         "rollout": one.rollout}
        for one in selection.kept
    )  # fmt: skip
    path = run.path / DEMONSTRATIONS
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    run.finish(f"{len(selection.kept)} demonstrations of {len({one.task for one in selection.kept})} tasks")
    _tell(f"finished: {len(selection.kept)} demonstrations in {path}")
    _tell(f"train on them with: rung sft --model {settings.model} --data {path}")


def report_of(settings: Rft, tried: Sequence[Tried], selection: Selection) -> dict[str, Any]:
    """Counts over all, for each band of difficulty, for each stage."""
    stages: dict[str, dict[str, int]] = {}
    for one, fate in zip(tried, selection.fates, strict=True):
        row = stages.setdefault(one.stage, {"sampled": 0})
        row["sampled"] += 1
        row[fate] = row.get(fate, 0) + 1
    solved = {one.task for one in tried if one.score is not None and one.score >= settings.threshold}
    return {
        "counts": asdict(selection.counts),
        "correct": sum(one.score is not None and one.score >= settings.threshold for one in tried),
        "tasks": {
            "asked": len({one.task for one in tried}),
            "solved": len(solved),
            "kept": len({one.task for one in selection.kept}),
        },
        "difficulty": by_difficulty(tried, selection.fates, settings.threshold),
        "stages": stages,
    }


# ---- beginning ----


def _player(settings: Rft, environment: Environment) -> LocalPlayer:
    sampling = Sampling(
        settings.max_tokens, settings.temperature[0], settings.top_p, top_k=settings.top_k, entropy=True
    )
    check([], sampling, context=settings.max_tokens, vocabulary=0)
    return LocalPlayer(
        settings.model, environment, sampling, slots=settings.slots, precision=settings.precision,
        device=settings.device,
    )  # fmt: skip


def _all_asked(settings: Rft, tasks: Sequence[Task]) -> list[Task]:
    """Every prompt that may be played, so that one that cannot is found before the run folder exists."""
    if not settings.rationalise:
        return list(tasks)
    answer_of = load_hint(settings.hint)
    return [*tasks, *(hinted(task, answer_of) for task in tasks)]


def _graded(episode: Episode, verdict: Verdict) -> Graded:
    rollout = episode.rollout()
    return Graded(rollout, verdict, np.zeros(len(rollout), np.float32))


def _reopened(settings: Rft) -> Run:
    if Run.open(settings.resume).status()["state"] == "finished":
        raise UserError(
            f"{settings.resume} has finished: its rows are in {settings.resume}/{DEMONSTRATIONS}."
        )
    return Run.resume(settings.resume)


def _hold_to(run: Run, config: dict[str, Any]) -> None:
    """A run goes on with the model and the tasks it was started with, or not at all."""
    started = run.config()
    for key, what in (("start_digest", "weights"), ("data_digest", "tasks")):
        if started[key] != config[key]:
            run.stop(f"its {what} have changed")
            raise UserError(
                f"{run.path} was started with other {what} (digest {started[key][:12]}, now {config[key][:12]}). Put "
                "them back, or start a new run."
            )
    run.rewind(len(RolloutStore(run.path).rounds()))


def _tell(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
