"""What makes a stage's result what it is, as one short name: the key under which it is found again.

    key = hash(command, resolved settings, the keys of the stages it builds on, the content of every file and
               folder it names, the versions of rung, torch, transformers and tokenizers)

So a changed setting, data file, start model or default gives a new key, and so do all stages after it; nothing else
does. Where a run is written, how often it is saved and who watches it do not change what comes out, and are left out.
Rung's version counts and not its source, or each edit of a comment would throw away hours; the source's digest is
kept in the stage's record and said where it differs.
"""

from __future__ import annotations

import hashlib
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung.config import to_dict
from rung.errors import UserError
from rung.pipelines.recipe_file import Stage
from rung.run import versions, write_atomically
from rung.schema import leaves

WITHOUT_EFFECT = ("out", "resume", "save_every", "keep", "trackers", "plot")
VERSIONS = ("rung", "torch", "transformers", "tokenizers")
DATA_FILE = re.compile(r"[\w./~+-]+\.(jsonl|json|csv|parquet|ya?ml|txt|py|gguf)")
LENGTH = 10  # hexadecimal digits: a pipeline folder holds tens of stages, not millions


@dataclass
class Digests:
    """SHA-256 of files, remembered by size and time so that weights are not read at every start."""

    file: Path | None = None  # where they are remembered
    known: dict[str, list[Any]] = field(default_factory=dict)  # path -> [size, time, digest]

    def __post_init__(self) -> None:
        if self.file is not None and self.file.exists():
            self.known = json.loads(self.file.read_text(encoding="utf-8"))

    def of(self, path: Path) -> str:
        """A file by its bytes; a folder by its files' names and bytes; a run by its latest checkpoint."""
        if path.is_file():
            return self._of_file(path)
        latest = path / "LATEST"
        if latest.is_file():
            path = path / "checkpoints" / latest.read_text(encoding="utf-8").strip()
        found = hashlib.sha256()
        for each in sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            found.update(f"{each.relative_to(path).as_posix()}\0{self._of_file(each)}\n".encode())
        return found.hexdigest()

    def _of_file(self, path: Path) -> str:
        stat = path.stat()
        name, now = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
        if self.known.get(name, [])[:2] != now:
            with path.open("rb") as stream:
                self.known[name] = [*now, hashlib.file_digest(stream, "sha256").hexdigest()]
        return str(self.known[name][2])

    def save(self) -> None:
        if self.file is not None:
            write_atomically(self.file, json.dumps(self.known) + "\n")


@dataclass(frozen=True)
class Identity:
    key: str
    parts: Mapping[str, Any]  # what was hashed, kept in the record so that a difference can be named


def identity(stage: Stage, keys: Mapping[str, str], digests: Digests) -> Identity:
    """The key of a stage whose earlier stages have `keys`. Raises UserError for a data file that is not there."""

    def put(name: str, member: str) -> str:
        return f"<{keys[name]}.{member}>"

    if stage.kind is None:
        settings: dict[str, Any] = {"script": digests.of(Path(stage.command)), **stage.words(put)}
    else:
        settings = dict(flat(to_dict(stage.settings(put, out="out"))))
    settings = {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT}
    inputs = {word: digests.of(path) for word, path in files_named(stage, put)}
    parts = {
        "command": stage.command if stage.kind else "script",
        "file": stage.file,
        "settings": settings,
        "inputs": inputs,
        "stages": {name: keys[name] for name in stage.needs},
        "versions": {name: version for name, version in versions().items() if name in VERSIONS},
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return Identity(hashlib.sha256(text.encode()).hexdigest()[:LENGTH], parts)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def files_named(stage: Stage, put: Callable[[str, str], str]) -> Iterator[tuple[str, Path]]:
    """Every file or folder that a setting names, also within `gsm8k:PATH`, `FILE:WEIGHT` and `FILE.py:function`."""
    table = leaves(stage.kind) if stage.kind else {}
    for key, words in stage.words(put).items():
        if key in table and typing.get_origin(table[key].type) is typing.Literal:
            continue
        for word in words or ():
            paths = list(paths_in(word))
            yield from ((str(path), path) for path in paths)
            if not paths and "<" not in word and "://" not in word and (missing := missing_file(word)):
                raise UserError(
                    f"{stage.given[key].place}: {stage.name} reads {missing}, and there is no such file (from "
                    f"{Path.cwd()}). Correct the path, or refer to the stage that makes it: ${{STAGE.file}}"
                )


def paths_in(word: str) -> Iterator[Path]:
    """The existing files and folders that a word names: as a whole, or in the parts of `A:PATH?x=1=0.7,B:PATH`."""
    for piece in dict.fromkeys([word, *re.split(r"[:?#,=&]", word)]):
        if piece and piece.strip("./~") and not re.search(r"\s", piece) and len(piece) < 4096:
            path = Path(piece).expanduser()
            if path.exists():
                yield path


def missing_file(word: str) -> str:
    """The part of a word that reads as the name of a data file; "" if none does."""
    return next((piece for piece in re.split(r"[:?#,=&]", word) if DATA_FILE.fullmatch(piece)), "")
