"""Iterated rejection-sampling fine-tuning, and the guard that ends it before the model feeds on itself alone.

    model -> generation-00/answers -> train -> generation-01/model -> generation-01/answers -> train -> ...

Each part is a run folder of `rung rft` or `rung sft`, resumed as those are; generations.jsonl has a row for each.
After each generation the guard compares its answers with those of the first model, task by task:

    collapse     the answers hold fewer different word pairs, by more than `most_lost`, and not by chance
    regression   tasks are solved less often than in the best generation so far, and not by chance
    no data      the next generation would need more fresh human rows than are left

Where it speaks, the result is the best generation before. Without human rows nothing but the guard stands between
this loop and the collapse of 2305.17493 (see rung/eval/tails.py), and it says so.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rung.config import to_dict
from rung.data.files import read_rows
from rung.data.mixture import epoch_order
from rung.errors import RunStopped, UserError
from rung.eval.paired import sign_flip
from rung.eval.tails import lost
from rung.pipelines.rejection import DEMONSTRATIONS, attempts_of, rft
from rung.pipelines.sft import sft
from rung.pipelines.stage import console
from rung.run import Run, write_atomically
from rung.settings_self_training import SelfTrain

FEWEST = 8  # tasks that two generations have in common, for the guard to say anything


@dataclass(frozen=True)
class Generation:
    """What is known of one generation; a row of generations.jsonl."""

    number: int
    model: str
    answers: str
    demonstrations: int
    human: int  # fresh rows it was trained on
    solved: float  # mean over tasks of the share of scored answers that are right
    lost: float = 0.0  # share of different word pairs, against the first model
    lost_p: float = 1.0
    stop: str = ""  # why the loop ends here


def self_train(settings: SelfTrain) -> Path:
    """Returns the folder; BEST in it names the model that came out best."""
    run = _open(settings)
    rows = [row for spec in settings.human for row, _ in read_rows(spec)]
    if (
        settings.human
    ):  # in an order of their own, so that a file sorted by subject is not met subject by subject
        rows = [rows[i] for i in epoch_order([len(rows)], None, settings.rft.seed, 0)]
    elif settings.generations > 1:
        _tell("no human rows: only the guard stands against collapse; give --human FILE --human-share 0.1")
    try:
        _generations(settings, run, rows)
    except RunStopped as stop:
        run.stop(str(stop))
        raise RunStopped(f"{stop} To go on: rung self-train --resume {run.path}", stop.code) from None
    except BaseException as error:
        run.fail(f"{type(error).__name__}: {error}")
        raise
    return run.path


def _generations(settings: SelfTrain, run: Run, rows: list[dict[str, Any]]) -> None:
    model, used, found = settings.model, 0, list[Generation]()
    for number in range(settings.generations + 1):
        folder = run.path / f"generation-{number:02d}"
        fresh = 0
        if number:
            before = found[-1]
            fresh = math.ceil(before.demonstrations * settings.human_share / (1 - settings.human_share))
            if used + fresh > len(rows):
                reason = f"no data: generation {number} needs {fresh} fresh human rows, and {len(rows) - used} are left"
                found[-1] = replace(before, stop=reason)
                break
            model = str(_train(settings, folder, Path(before.answers), rows[used : used + fresh], model))
            used += fresh
        answers = _sample(settings, folder / "answers", model)
        found.append(_looked_at(settings, number, model, answers, fresh, found))
        _write(run, found)
        _tell(_line(found[-1]))
        if found[-1].stop:
            break
    _write(run, found)
    stop = found[-1].stop
    # Of a generation the guard stopped nothing is kept; that data ran out says nothing against the last one.
    good = found[:-1] if stop and not stop.startswith("no data") else found
    best = max(good, key=lambda one: one.solved)
    write_atomically(run.path / "BEST", best.model + "\n")
    done = f"best is generation {best.number}, solved {best.solved:.3f}: {best.model}"
    run.finish(f"{stop or 'did every generation asked for'}; {done}")
    _tell(f"stopped  {stop}\n{done}" if stop else f"finished {done}")


def _sample(settings: SelfTrain, out: Path, model: str) -> Path:
    return _finished(out) or rft(
        replace(settings.rft, resume=str(out))
        if (out / "config.json").exists()
        else replace(settings.rft, model=model, out=str(out))
    )


def _train(settings: SelfTrain, folder: Path, answers: Path, human: list[dict[str, Any]], last: str) -> Path:
    """The model of a generation, from the answers of the one before and fresh human rows."""
    out = folder / "model"
    if done := _finished(out):
        return done
    own, share = str(answers / DEMONSTRATIONS), settings.human_share
    data: tuple[str, ...] = (own,)
    if human:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(
            folder / "human.jsonl", "".join(json.dumps(row, default=str) + "\n" for row in human)
        )
        data = (f"{own}:{1 - share:g}", f"{folder / 'human.jsonl'}:{share:g}")
    begun = (out / "config.json").exists()
    if begun and Run.open(out).latest() is not None:
        return sft(
            replace(settings.sft, model=_start(settings, last), data=data, out=str(out), resume=str(out))
        )
    if begun:  # it ended before its first checkpoint: there is nothing to continue
        shutil.rmtree(out)
    return sft(replace(settings.sft, model=_start(settings, last), data=data, out=str(out)))


def _start(settings: SelfTrain, last: str) -> str:
    return settings.model if settings.start == "first" else last


def _finished(path: Path) -> Path | None:
    return (
        path if (path / "config.json").exists() and Run.open(path).status()["state"] == "finished" else None
    )


# ---- the guard ----


def _looked_at(
    settings: SelfTrain, number: int, model: str, answers: Path, fresh: int, before: Sequence[Generation]
) -> Generation:
    tried = list(attempts_of(answers))
    kept = len((answers / DEMONSTRATIONS).read_text(encoding="utf-8").splitlines())
    now = solved(tried, settings.rft.threshold)
    this = Generation(number, model, str(answers), kept, fresh, float(np.mean(list(now.values()) or [0.0])))
    if not before:
        return this
    first, both = first_answers(attempts_of(before[0].answers)), first_answers(tried)
    shared = [task for task in first if task in both]
    if len(shared) < FEWEST:
        return this
    found = lost([first[task] for task in shared], [both[task] for task in shared])
    this = replace(this, lost=found.share, lost_p=found.p_value)
    if found.share > settings.most_lost and found.p_value <= settings.level:
        return replace(
            this,
            stop=f"collapse: {found.now} different word pairs where the first model wrote {found.before}",
        )
    best = max(before, key=lambda one: one.solved)
    then = solved(attempts_of(best.answers), settings.rft.threshold)
    difference = np.array([now[task] - then[task] for task in now if task in then])
    if len(difference) and difference.mean() < 0 and sign_flip(difference) <= settings.level:
        reason = f"regression: solved {this.solved:.3f}, and generation {best.number} had {best.solved:.3f}"
        return replace(this, stop=reason)
    return this


def first_answers(tried) -> dict[str, str]:
    """The first answer to each task, whatever it got: what the model writes before anything is selected."""
    found: dict[str, str] = {}
    for one in tried:
        if not one.hinted:
            found.setdefault(one.task, one.text)
    return found


def solved(tried, threshold: float) -> dict[str, float]:
    """The share of right answers of each task in its first stage; later stages ask only what went badly."""
    scores: dict[str, list[float]] = defaultdict(list)
    stage: dict[str, str] = {}
    for one in tried:
        if one.score is not None and stage.setdefault(one.task, one.stage) == one.stage:
            scores[one.task].append(one.score >= threshold)
    return {task: float(np.mean(right)) for task, right in scores.items()}


# ---- the folder ----


def _open(settings: SelfTrain) -> Run:
    if settings.resume:
        if Run.open(settings.resume).status()["state"] == "finished":
            raise UserError(f"{settings.resume} has finished; its best model is in {settings.resume}/BEST.")
        return Run.resume(settings.resume)
    out = settings.out or f"runs/self-train-{time.strftime('%Y%m%d-%H%M%S')}"
    return Run.create(out, {"command": "self-train", "settings": to_dict(settings)})


def _write(run: Run, found: Sequence[Generation]) -> None:
    write_atomically(run.path / "generations.jsonl", "".join(json.dumps(asdict(one)) + "\n" for one in found))


def _line(one: Generation) -> str:
    stop = f"; {one.stop}" if one.stop else ""
    return (
        f"generation {one.number}: solved {one.solved:.3f}, {one.demonstrations} demonstrations, {one.human} fresh "
        f"human rows before, {one.lost:.0%} of word pairs lost (p {one.lost_p:.3f}){stop}"
    )


def _tell(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
