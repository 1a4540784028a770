"""The result of an evaluation is a folder that anyone can recount.

    result.json     how it was made (`Header`), digests of the two files below, the numbers
    prompts.jsonl   one task a line: messages, rendered text, token ids, reference
    samples.jsonl   one attempt a line: ids, text, verdict

While it is made the folder is called `<name>.partial`, and every sample is appended as it comes. Opened again
with the same header and prompts it goes on where it stopped: nothing is sampled or judged twice. The finished
folder appears whole, its samples in order, so that the same evaluation twice is the same bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rung
from rung.errors import UserError
from rung.eval.difference import cause
from rung.eval.records import (
    Header,
    Prompt,
    Sample,
    attempt_of,
    header_row,
    prompt_row,
    read_header,
    read_prompt,
    read_sample,
    sample_row,
)
from rung.eval.tally import Tally, tally
from rung.publish import publish, sync_tree
from rung.rewards.calling import judge_all
from rung.rewards.score import Attempt, Verdict


@dataclass(frozen=True)
class Result:
    header: Header
    prompts: tuple[Prompt, ...]
    samples: tuple[Sample, ...]
    numbers: dict[str, Any]


class Recorder:
    """An evaluation being made. One process at a time; leaving it unfinished keeps what there is."""

    def __init__(self, path: str | Path, header: Header, prompts: Sequence[Prompt]):
        self.path, self.header, self.prompts = Path(path), header, tuple(prompts)
        self.partial = self.path.with_name(self.path.name + ".partial")
        require_distinct(self.prompts, header)
        self._tasks = {prompt.task for prompt in self.prompts}
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"{path} exists already, and a result is never written over; choose another name")
        if self.partial.exists():
            made, asked = read_rows(self.partial, complete=False)
            found = cause(made, asked, header, self.prompts)
            if found:
                raise UserError(
                    f"{self.partial} was begun as another evaluation, which differs in {found}. Repeat it as it "
                    "was begun, remove the folder, or choose another name"
                )
        else:
            with publish(self.partial) as folder:
                (folder / "result.json").write_text(dump({"header": header_row(header)}), encoding="utf-8")
                write_rows(folder / "prompts.jsonl", map(prompt_row, self.prompts))
                (folder / "samples.jsonl").touch()
        self._file = (self.partial / "samples.jsonl").open("r+b")
        self._lock()
        self.samples = {sample.key: sample for sample in self._recover()}

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UserError(
                f"{self.partial} is being written by another process; wait for it, or stop it"
            ) from error

    def _recover(self) -> list[Sample]:
        """The samples so far; a last line without an end was torn by a kill and is cut off."""
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.seek(len(whole))
        self._file.truncate()
        return [read_sample(row) for row in parsed(whole, self.partial / "samples.jsonl")]

    def missing(self) -> list[tuple[Prompt, int]]:
        """The attempts still to be made, in order."""
        wanted = [(prompt, i) for prompt in self.prompts for i in range(self.header.attempts)]
        return [(prompt, i) for prompt, i in wanted if (prompt.task, i) not in self.samples]

    def add(self, sample: Sample) -> None:
        """On disk, or at least in the system's hands, before it counts: kill -9 does not lose it."""
        if sample.task not in self._tasks or not 0 <= sample.index < self.header.attempts:
            raise ValueError(f"sample {sample.task}/{sample.index} was not asked for")
        if sample.key in self.samples:
            raise ValueError(f"sample {sample.task}/{sample.index} is there already")
        self._file.write(dump(sample_row(sample), indent=None).encode())
        self._file.flush()
        self.samples[sample.key] = sample

    def finish(self, seed: int = 0) -> Result:
        """Count, and let the finished folder appear. Refused while attempts are missing."""
        missing = self.missing()
        if missing:
            prompt, index = missing[0]
            raise UserError(
                f"{len(missing)} of {len(self.prompts) * self.header.attempts} attempts are missing, the first is "
                f"{prompt.task}/{index}; run the same command again to go on"
            )
        result = write(self.path, self.header, self.prompts, list(self.samples.values()), seed)
        self.close()
        shutil.rmtree(self.partial)
        return result

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def require_distinct(prompts: Sequence[Prompt], header: Header) -> None:
    keys = [prompt.task for prompt in prompts]
    twice = next((key for key in keys if keys.count(key) > 1), None) if len(set(keys)) < len(keys) else None
    if twice is not None:
        raise UserError(f"task {twice} is there twice; every task of an evaluation needs its own key")
    if not prompts or header.attempts < 1:
        raise UserError("an evaluation needs at least one task and one attempt")


def write(
    path: Path, header: Header, prompts: Sequence[Prompt], samples: Sequence[Sample], seed: int = 0
) -> Result:
    order = {prompt.task: i for i, prompt in enumerate(prompts)}
    ordered = sorted(samples, key=lambda sample: (order[sample.task], sample.index))
    numbers = tally(ordered, header.correct_at, seed).numbers()
    with publish(path) as folder:
        write_rows(folder / "prompts.jsonl", map(prompt_row, prompts))
        write_rows(folder / "samples.jsonl", map(sample_row, ordered))
        digests = {name: digest(folder / f"{name}.jsonl") for name in ("prompts", "samples")}
        content = {"header": header_row(header), "digests": digests, "seed": seed, "numbers": numbers}
        (folder / "result.json").write_text(dump(content), encoding="utf-8")
        sync_tree(folder)
    return Result(header, tuple(prompts), tuple(ordered), numbers)


def read(path: str | Path) -> Result:
    """A finished result; one whose files do not fit their digests is refused."""
    path = Path(path)
    if not (path / "result.json").is_file():
        partial = path.with_name(path.name + ".partial")
        hint = f"; {partial} is unfinished: run its command again" if partial.exists() else ""
        raise UserError(f"{path} is no result: it has no result.json{hint}")
    header, prompts = read_rows(path)
    content = json.loads((path / "result.json").read_text(encoding="utf-8"))
    if "numbers" not in content:
        raise UserError(f"{path} is an unfinished evaluation; run its command again to finish it")
    lines = (path / "samples.jsonl").read_bytes()
    samples = tuple(read_sample(row) for row in parsed(lines, path / "samples.jsonl"))
    return Result(header, prompts, samples, content["numbers"])


def read_rows(path: Path, complete: bool = True) -> tuple[Header, tuple[Prompt, ...]]:
    content = json.loads((path / "result.json").read_text(encoding="utf-8"))
    for name, expected in content.get("digests", {}).items() if complete else ():
        if digest(path / f"{name}.jsonl") != expected:
            raise UserError(
                f"{path}/{name}.jsonl is not what was written: its digest is not the one in result.json. "
                "Evaluate again, or bring the file back"
            )
    rows = parsed((path / "prompts.jsonl").read_bytes(), path / "prompts.jsonl")
    return read_header(content["header"]), tuple(read_prompt(row) for row in rows)


@dataclass(frozen=True)
class Rescored:
    tally: Tally
    samples: tuple[Sample, ...]  # with their new verdicts
    changed: tuple[tuple[Sample, Verdict], ...]  # the samples whose verdict is another now, and the new one


def rescore(path: str | Path, reward: Callable[[Attempt], Any] | None = None, seed: int = 0) -> Rescored:
    """The numbers anew: from the verdicts in the file, or from judging every stored answer with `reward`."""
    result = read(path)
    prompts = {prompt.task: prompt for prompt in result.prompts}
    verdicts = [sample.verdict for sample in result.samples]
    if reward is not None:
        verdicts = judge_all(reward, [attempt_of(prompts[sample.task], sample) for sample in result.samples])
    pairs = list(zip(result.samples, verdicts, strict=True))
    samples = tuple(replace(sample, verdict=verdict) for sample, verdict in pairs)
    changed = tuple((sample, verdict) for sample, verdict in pairs if verdict != sample.verdict)
    return Rescored(tally(samples, result.header.correct_at, seed), samples, changed)


def code_identity() -> dict[str, str]:
    """The version of rung and one digest over its sources, for `Header.code`."""
    root, total = Path(rung.__file__).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        total.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return {"rung": rung.__version__, "digest": total.hexdigest()}


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as out:
        out.writelines(dump(row, indent=None) for row in rows)


def dump(row: dict[str, Any], indent: int | None = 2) -> str:
    return (
        json.dumps(row, ensure_ascii=True, allow_nan=False, indent=indent) + "\n"
    )  # lone surrogates survive


def parsed(content: bytes, file: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{file}:{number}: not a row of JSON ({error}); the file was changed") from error
    return rows
