"""Measure a model on the held-out tasks of an environment, sample by sample, into a folder anyone can recount.

    tasks -> player (a model here, or an endpoint) -> graders in workers -> recorder -> Evaluation

Sample j of task i has its own dice, whatever else is asked, so more tasks, more samples or a resumed run change
none that were there. What is interrupted goes on when the same call is made again: nothing recorded is sampled
or judged twice. With `strict` an answer does not even depend on what is sampled beside it, to the bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rung.endpoint import Endpoint, is_url
from rung.envs.environment import Environment, Task
from rung.envs.load import load_environment
from rung.envs.options import members
from rung.errors import RunStopped, UserError
from rung.eval.difference import cause
from rung.eval.passk import Curve
from rung.eval.records import Header, Prompt, Sample, attempt_of
from rung.eval.results import Recorder, Result, code_identity, dump, prompt_row, read
from rung.eval.tally import Tally, majority_curve, tally
from rung.pipelines.endpoint import EndpointPlayer
from rung.pipelines.evaluate_local import LocalPlayer
from rung.rewards.extract import marked_answer
from rung.rewards.numeric import answered_number, right_number
from rung.rewards.score import Abstain, Score
from rung.rewards.user import UserReward
from rung.rewards.workers import Graders, Grading
from rung.rollouts.engine import sample_seed
from rung.rollouts.request import Sampling

UNJUDGED = Abstain("not judged yet")
Progress = Callable[[int, int], None]  # answers recorded, answers wanted


class Player(Protocol):
    """What answers tasks. The three are the header's: all that could change an answer, and no more."""

    model: dict[str, Any]
    engine: dict[str, Any]
    sampling: dict[str, Any]

    def prompts(self, tasks: Sequence[Task]) -> list[Prompt]: ...

    def play(self, asks: Sequence[tuple[Task, int]], ended: Callable[[int, dict[str, Any]], None]) -> None:
        """Answer each (task, seed); `ended(which, parts of its Sample)` as each is done, in any order."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """A finished result with its numbers. `tally.accuracy`, `tally.pass_at` and `majority` have intervals."""

    path: Path
    result: Result
    tally: Tally
    majority: Curve | None  # maj@k; None where no two answers can be compared

    @property
    def name(self) -> str:
        return str(self.result.header.model["name"])


def evaluate(
    model: str | Path,
    env: str | Environment,
    *,
    out: str | Path,
    samples: int = 1,
    tasks: int | None = None,
    max_tokens: int = 512,
    temperature: float = 1.0,
    top_p: float = 1.0,
    think_tokens: int | None = None,
    seed: int = 0,
    strict: bool = False,
    slots: int = 64,
    precision: str = "auto",
    device: str = "auto",
    served_name: str = "",
    concurrency: int = 8,
    grader_seconds: float = 20.0,
    progress: Progress | None = None,
) -> Evaluation:
    """`samples` answers to each held-out task (the first `tasks` of them), graded by the environment's own reward.

    `model` is anything `load_model` opens, or the http address of an OpenAI-compatible server. `out` is the
    result folder. If it is there already and was made just so, it is read and nothing is sampled.
    """
    environment = environment_of(env, tasks)
    chosen = held_out(environment, tasks)
    sampling = Sampling(max_tokens, temperature, top_p, seed=seed)
    player: Player
    if think_tokens is not None and think_tokens < 0:
        raise UserError(f"a thinking budget of {think_tokens} tokens; write 0 or more")
    if is_url(str(model)):
        refuse_here(strict, think_tokens)
        player = EndpointPlayer(Endpoint(str(model), served_name), environment, sampling, concurrency)
    else:
        player = LocalPlayer(
            str(model), environment, sampling, strict=strict, slots=slots, precision=precision, device=device,
            think_tokens=think_tokens,
        )  # fmt: skip
    prompts = player.prompts(chosen)
    header = Header(
        model=player.model,
        sampling=player.sampling,
        engine=player.engine,
        data={"name": environment.name, "split": "test", "digest": prompts_digest(prompts)},
        code=code_identity()
        | {"reward": reward_identity(environment.reward), "grader_seconds": grader_seconds},
        attempts=samples,
    )
    if (Path(out) / "result.json").is_file():
        return finished(Path(out), header, prompts)
    with Recorder(out, header, prompts) as recorder:
        with Graders(environment.reward, wall_seconds=grader_seconds) as graders:
            fill(recorder, player, chosen, graders, seed, progress)
        return evaluation(Path(out), recorder.finish(seed))


def environment_of(env: str | Environment, tasks: int | None) -> Environment:
    """With as many held-out tasks as will be asked for; the members of a mixture have equal parts in them."""
    if not isinstance(env, str):
        return env
    return load_environment(env, test_size=None if tasks is None else max(-(-tasks // len(members(env))), 0))


def held_out(environment: Environment, count: int | None) -> list[Task]:
    """The test tasks, or the first `count` of them."""
    if (count is not None and count < 1) or not len(environment.test):
        raise UserError(f"{environment.name}: there is no held-out task to evaluate on; ask for at least one")
    total = len(environment.test) if count is None else min(count, len(environment.test))
    return [environment.test[i] for i in range(total)]


def refuse_here(strict: bool, think_tokens: int | None) -> None:
    if strict or think_tokens is not None:
        raise UserError(
            "an endpoint samples as it likes: batch invariance (strict) and thinking budgets need the model "
            "itself; name its folder instead of an address"
        )


def finished(path: Path, header: Header, prompts: Sequence[Prompt]) -> Evaluation:
    result = read(path)
    found = cause(result.header, result.prompts, header, prompts)
    if found:
        raise UserError(
            f"{path} is a finished evaluation of another kind: it differs in {found}. Choose another name, "
            "or remove it"
        )
    return evaluation(path, result)


def opened(path: str | Path) -> Evaluation:
    """A result folder with its numbers."""
    return evaluation(Path(path), read(path))


def evaluation(path: Path, result: Result) -> Evaluation:
    counted = tally(result.samples, result.header.correct_at)
    return Evaluation(path, result, counted, majority(result))


# ---- making it ----


def fill(
    recorder: Recorder,
    player: Player,
    tasks: Sequence[Task],
    graders: Graders,
    seed: int,
    progress: Progress | None,
) -> None:
    """Play, judge and record what is missing. Answers that came before a breakdown are kept."""
    place = {task.key: i for i, task in enumerate(tasks)}
    missing = recorder.missing()
    total = len(recorder.samples) + len(missing)
    asks = [(tasks[place[p.task]], sample_seed(seed, place[p.task], j)) for p, j in missing]
    waiting: list[tuple[Sample, Grading]] = []

    def ended(which: int, parts: dict[str, Any]) -> None:
        prompt, index = missing[which]
        sample = Sample(task=prompt.task, index=index, verdict=UNJUDGED, **parts)
        waiting.append((sample, graders.submit([attempt_of(prompt, sample)])))
        record(everything=False)

    def record(everything: bool) -> None:
        judged = [everything or grading.done() for _, grading in waiting]
        ready = [pair for pair, is_judged in zip(waiting, judged, strict=True) if is_judged]
        waiting[:] = [pair for pair, is_judged in zip(waiting, judged, strict=True) if not is_judged]
        for sample, grading in ready:
            recorder.add(replace(sample, verdict=grading.verdicts()[0]))
        if progress is not None:
            progress(len(recorder.samples), total)

    try:
        player.play(asks, ended)
    except RunStopped as stop:
        record(everything=True)
        raise RunStopped(
            f"{stop} {len(recorder.samples)} of {total} answers are kept in {recorder.partial}; the same again "
            "goes on from there.",
            stop.code,
        ) from stop
    record(everything=True)


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Of what is asked and what is right, not of how a template writes it."""
    found = hashlib.sha256()
    for prompt in prompts:
        row = prompt_row(prompt)
        found.update(dump({k: row[k] for k in ("task", "messages", "reference", "extra")}, None).encode())
    return found.hexdigest()


def reward_identity(reward: Any) -> str:
    """Which reward it is, the same in every process: a user's file by what it says, ours by its settings."""
    if isinstance(reward, UserReward):
        content = hashlib.sha256(Path(reward.file).read_bytes()).hexdigest()
        return f"{Path(reward.file).name}:{reward.name} {content[:16]}"
    shown = repr(reward)
    return f"{type(reward).__module__}.{type(reward).__qualname__}" if " at 0x" in shown else shown


# ---- majority ----


def majority(result: Result) -> Curve | None:
    """maj@k over the answers that can be compared; None with one attempt each, or where none names its answer."""
    references = {prompt.task: prompt.reference for prompt in result.prompts}
    ballots = {s.key: ballot(s.answer, references[s.task]) for s in result.samples}
    scored = [s for s in result.samples if isinstance(s.verdict, Score)]
    if result.header.attempts < 2 or not any(ballots[s.key] for s in scored):
        return None
    by_answer = [replace(s, answer=ballots[s.key] or "") for s in result.samples]
    return majority_curve(by_answer, lambda answer: answer or None, result.header.correct_at)


def ballot(answer: str, reference: Any) -> str | None:
    """What an answer votes for: a number where a number is right, else what it marked as its answer."""
    if right_number(reference) is not None:
        number = answered_number(answer)
        if number is not None:
            return str(number.value)
    marked = marked_answer(answer)
    return " ".join(marked.casefold().split()) or None if marked is not None else None
