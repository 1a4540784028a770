"""Run a recipe: stage after stage, each a process of its own, and none that is done already.

    DIR/NAME-KEY/                what the stage NAME wrote: a run folder, or the one file it makes
    DIR/pipeline/NAME-KEY.yaml   the settings it was started with
    DIR/pipeline/NAME-KEY.json   its record: what the key is made of, state, seconds, peak memory
    DIR/pipeline.json            the recipe as it was last run, and which results are its

A stage is done when its record says finished, and nothing else counts: a folder that happens to be there does not.
What a kill left behind is continued where the command can do that, by `--resume` or by being called again, and
otherwise removed and begun anew. Results of other settings keep their own names and stay. A process of its own for
each stage gives its memory back, and dies with the runner: `kill -9` leaves nobody training.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rung.config import save
from rung.errors import RunStopped, UserError
from rung.eval.results import code_identity
from rung.pipelines.recipe_file import Recipe, Stage
from rung.pipelines.recipe_yaml import REFERENCE
from rung.pipelines.stage_key import Digests, Identity, identity
from rung.run import Run, write_atomically

# These go on from what they have when they are called again as before, by the same source.
REPEATED = ("eval", "eval winrate", "cai", "rlaif", "data generate", "data filter", "data rubrics")
PR_SET_PDEATHSIG = 1

State = Literal["new", "running", "stopped", "failed", "finished"]
Way = Literal["done", "finish", "resume", "repeat", "run"]


@dataclass(frozen=True)
class Place:
    """A stage of a recipe in a pipeline folder: where its result is or will be."""

    stage: Stage
    identity: Identity
    root: Path

    @property
    def name(self) -> str:
        return f"{self.stage.name}-{self.identity.key}"

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def output(self) -> Path:
        return self.folder / self.stage.file if self.stage.file else self.folder

    @property
    def record_file(self) -> Path:
        return self.root / "pipeline" / f"{self.name}.json"

    def record(self) -> dict[str, Any]:
        if not self.record_file.exists():
            return {"state": "new", "seconds": 0.0}
        return json.loads(self.record_file.read_text(encoding="utf-8"))

    def done(self) -> bool:
        writes = self.stage.file or self.stage.kind is None or self.stage.has("out")
        return self.record()["state"] == "finished" and (not writes or self.output.exists())

    def begun(self) -> Run | None:
        """What a command that resumes has left behind: a training needs a checkpoint, the others their run folder."""
        if not self.stage.has("resume") or not (self.folder / "config.json").is_file():
            return None
        run = Run(self.folder)
        return run if run.latest() is not None or not self.stage.has("optimizer.learning_rate") else None

    def way(self) -> Way:
        """What running the recipe does with this stage."""
        if self.done():
            return "done"
        run = self.begun()
        if run is not None:
            # Killed between its last word and our record: the command itself says that it is through.
            return "finish" if run.status()["state"] == "finished" else "resume"
        partly = self.stage.command in REPEATED and self.folder.exists()
        return "repeat" if partly and same_code(self) else "run"


def located(recipe: Recipe, root: Path, digests: Digests) -> list[Place]:
    """Every stage with its key, in the order of running."""
    places: list[Place] = []
    for stage in recipe.stages:
        keys = {place.stage.name: place.identity.key for place in places}
        places.append(Place(stage, identity(stage, keys, digests), root))
    return places


def run_recipe(
    recipe: Recipe, root: Path, command_line: str, before: Callable[[list[Place]], None] = lambda places: None
) -> list[Place]:
    """Run what is not done. `command_line` is what to type to go on, `before` sees the stages before the first runs.

    Raises RunStopped where a stage did not end well.
    """
    digests = Digests(root / "pipeline" / "digests.json")
    places = located(recipe, root, digests)  # a file that is missing is told before there is a folder
    (root / "pipeline").mkdir(parents=True, exist_ok=True)
    with only_runner(root):
        digests.save()
        write_manifest(recipe, root, places, command_line)
        before(places)
        for number, place in enumerate(places, 1):
            head = f"[{number}/{len(places)}] {place.stage.name}"
            way = place.way()
            if way == "done":
                say(f"{head}: done before, {place.output}{other_code(place)}")
                continue
            if way == "finish":
                write_record(place, "finished")
                say(f"{head}: had finished, {place.output}")
                continue
            run_stage_process(place, places, way, head, command_line)
    return places


def run_stage_process(place: Place, places: Sequence[Place], way: str, head: str, command_line: str) -> None:
    require_inputs(place, places)
    words = prepare(place, places, way)
    how = "starts" if way == "run" else "goes on"
    say(f"{head}: {how}   {shlex.join(words)}")
    before, began = float(place.record()["seconds"]), time.monotonic()
    write_record(place, "running", seconds=before)
    code, peak, interrupted = call(words, place.output if place.stage.stdout else None)
    facts = {"seconds": round(before + time.monotonic() - began, 1), "peak_memory": peak}
    if code == 0 and not place.output.exists() and place.stage.file:
        write_record(place, "failed", **facts)
        raise RunStopped(
            f"the stage {place.stage.name} ended well and did not write {place.output}. Give the name that its "
            f"command writes as `out` or `stdout` ({place.stage.place}).", 1,
        )  # fmt: skip
    if code == 0:
        write_record(place, "finished", **facts)
        if not interrupted:
            return
    else:
        write_record(place, "stopped" if interrupted or code == 130 else "failed", **facts)
    if interrupted or code == 130:
        raise RunStopped(
            f"stopped in the stage {place.stage.name}; what is done is kept. Go on with: {command_line}", 130
        )
    ending = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise RunStopped(
        f"the stage {place.stage.name} {ending} (its own words are above; {place.stage.place}). What was done before it "
        f"is kept. Mend it, then go on with: {command_line}", code if code > 0 else 1,
    )  # fmt: skip


def prepare(place: Place, places: Sequence[Place], way: str) -> list[str]:
    """The words to run, with the folder made ready for them."""
    stage = place.stage
    if way == "resume":
        return ["rung", *stage.command.split(), "--resume", str(place.folder)]
    if way == "run":
        for left in (place.folder, place.folder.with_name(place.folder.name + ".partial")):
            shutil.rmtree(left, ignore_errors=True)
    if stage.file:
        place.folder.mkdir(exist_ok=True)
    put = reference_in(places)
    if stage.kind is None:
        given = [(key, words) for key, words in stage.words(put).items() if words is not None]
        options = [word for key, words in given for word in (f"--{key.replace('_', '-')}", *words)]
        out = [] if stage.stdout else ["--out", str(place.output)]
        return ["python", stage.command, *options, *out]
    own = {} if stage.stdout else {"out": str(place.output)}
    file = place.record_file.with_suffix(".yaml")
    save(stage.settings(put, **own), file)
    return ["rung", *stage.command.split(), "--config", str(file)]


def reference_in(places: Sequence[Place]):
    outputs = {place.stage.name: place for place in places}

    def put(name: str, member: str) -> str:
        place = outputs[name]
        return str({"file": place.output, "rollouts": place.folder / "rollouts"}.get(member, place.folder))

    return put


def require_inputs(place: Place, places: Sequence[Place]) -> None:
    """What the stage reads must be there, and hold something: nothing is trained on nothing."""
    put = reference_in(places)
    for key, given in place.stage.given.items():
        words = place.stage.words(put)[key] or []
        for asked, word in zip(given.words or [], words, strict=True):
            for inside in REFERENCE.findall(asked):
                name, member = inside.split(".")
                require(place.stage.name, name, file_in(word, put(name, member)), given.place)


def file_in(word: str, path: str) -> Path:
    """The file that a word names below a stage's output: `OUTPUT/rows.jsonl:0.5` is OUTPUT/rows.jsonl."""
    after = word[word.index(path) + len(path) :]
    return Path(path + re.split(r"[:?#,=&]", after)[0])


def require(reader: str, writer: str, path: Path, where: str) -> None:
    if not path.exists():
        raise UserError(f"{where}: {reader} reads {path}, and the stage {writer} has left no such thing. "
                        f"Look at what it wrote; to run it anew, remove its folder.")  # fmt: skip
    if path.is_file() and not path.read_bytes()[:65536].strip():
        raise UserError(
            f"{where}: {reader} reads {path}, and it has 0 rows: the stage {writer} let nothing through. "
            f"Loosen {writer}, or give it more to work on; an empty set trains nothing."
        )


# ---- processes ----


def call(words: Sequence[str], stdout: Path | None) -> tuple[int, float, bool]:
    """Run to the end: exit code, peak memory in GB, and whether we were asked to stop.

    The process stands in a session of its own, so that Ctrl-C reaches it once, through us.
    """
    known = {"rung": [sys.executable, "-m", "rung"], "python": [sys.executable]}
    argv = [*known[words[0]], *words[1:]]
    temporary = stdout.with_name(f".{stdout.name}.tmp") if stdout else None
    with open(temporary, "wb") if temporary else noted() as file:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=file, start_new_session=True, preexec_fn=die_with(os.getpid())
        )  # fmt: skip
        with passing_on(process.pid) as asked:
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if stdout and temporary:
        if process.returncode == 0:
            temporary.replace(stdout)
        else:
            temporary.unlink()
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    return process.returncode, round(peak, 3), bool(asked)


@contextmanager
def noted() -> Iterator[None]:
    """The terminal itself, so that progress lines are drawn as always."""
    sys.stdout.flush()
    yield None


def die_with(parent: int):
    """In the child, before it becomes the command: end when the runner ends, however it ends (Linux)."""

    def prepare() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it ended before we could ask
                os._exit(1)

    return prepare


@contextmanager
def passing_on(pid: int) -> Iterator[list[int]]:
    """Hand Ctrl-C and a termination on to the stage, which saves and ends; the list says whether there was one."""
    asked: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        asked.append(number)
        os.kill(pid, number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- what is written down ----


@contextmanager
def only_runner(root: Path) -> Iterator[None]:
    """One runner per folder; the lock goes with the process, however it ends."""
    with (root / "pipeline" / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{root} is being run by another process; wait for it, or choose --out"
            ) from error
        yield


def write_record(place: Place, state: State, **facts: Any) -> None:
    before = place.record()
    record = {
        "name": place.stage.name,
        "key": place.identity.key,
        "state": state,
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": facts.get("seconds", before["seconds"]),
        "peak_memory": max(facts.get("peak_memory", 0.0), before.get("peak_memory", 0.0)),
        "output": place.output.relative_to(place.root).as_posix(),
        "code": code_identity()["digest"],
        **place.identity.parts,
    }
    write_atomically(place.record_file, json.dumps(record, indent=2, default=str) + "\n")


def write_manifest(recipe: Recipe, root: Path, places: Sequence[Place], command_line: str) -> None:
    manifest: Mapping[str, Any] = {
        "recipe": str(recipe.path),
        "about": recipe.about,
        "command": command_line,
        "stages": [
            {"name": p.stage.name, "command": p.stage.command, "key": p.identity.key, "needs": p.stage.needs,
             "file": p.stage.file}
            for p in places
        ],
    }  # fmt: skip
    write_atomically(root / "pipeline.json", json.dumps(manifest, indent=2) + "\n")


def same_code(place: Place) -> bool:
    return place.record().get("code") == code_identity()["digest"]


def other_code(place: Place) -> str:
    """A remark where rung's source has changed since: the result stands, and may not be what it would be now."""
    return "" if same_code(place) else " (by rung's source as it was then)"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
