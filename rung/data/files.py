"""Where rows come from: JSONL, JSON and Parquet files, folders of them, and Hugging Face hub ids.

A spec is a path or a hub id, optionally followed by `:WEIGHT`, the share of a mixture (`a.jsonl:0.3`). A hub
id may name a configuration and a split, `owner/name:config:split`; the split is `train` when unnamed.
Every row comes with its origin, `file.jsonl:12`, counted from 1, which all later errors repeat.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rung.errors import UserError

SUFFIXES = (".jsonl", ".json", ".parquet")
OTHER_SUFFIXES = (".csv", ".tsv", ".txt", ".gz", ".zst", ".arrow", ".yaml", ".yml")  # files, never hub ids
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+){0,2}")

RawRow = dict[str, Any]


def split_weight(spec: str) -> tuple[str, float | None]:
    """`a.jsonl:0.3` -> (`a.jsonl`, 0.3). A file that really has such a name is meant as it is."""
    path, colon, last = spec.rpartition(":")
    try:
        weight = float(last)
    except ValueError:
        return spec, None
    if not colon or Path(spec).exists():
        return spec, None
    if not (weight > 0 and math.isfinite(weight)):
        raise UserError(f"{spec}: a weight must be a positive number; write for example {path}:0.5.")
    return path, weight


def weights_of(specs: list[str]) -> list[float] | None:
    """The mixture's weights; all specs have one or none has."""
    weights = [split_weight(spec)[1] for spec in specs]
    given = [weight for weight in weights if weight is not None]
    if not given:
        return None
    if len(given) < len(weights):
        bare = specs[weights.index(None)]
        raise UserError(
            f"{bare} has no weight but other data have; write {bare}:WEIGHT, or no weights at all."
        )
    return given


def read_rows(spec: str) -> Iterator[tuple[RawRow, str]]:
    """Rows and their origins; a UserError at the first thing that cannot be read."""
    for row, origin in scan(spec):
        if isinstance(row, UserError):
            raise row
        yield row, origin


def scan(spec: str) -> Iterator[tuple[RawRow | UserError, str]]:
    """Like `read_rows`, but a row that cannot be read is yielded as its error, and reading goes on."""
    path = split_weight(spec)[0]
    paths = files_of(path)
    rows = hub_rows(path) if paths is None else (row for file in paths for row in file_rows(file))
    empty = True
    for item in rows:
        empty = False
        yield item
    if empty:
        raise UserError(f"{path} holds no rows; give a file with at least one.")


def file_digest(spec: str) -> str:
    """sha256 of what a spec holds, to notice on resume that the data changed."""
    path = split_weight(spec)[0]
    digest = hashlib.sha256()
    for file in files_of(path) or ():
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    if files_of(path) is None:
        for row, _ in hub_rows(path):
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def files_of(path: str) -> list[Path] | None:
    """The files a path means, in name order; None when it must be a hub id."""
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        if not files:
            raise UserError(f"the folder {path} holds no {', '.join(SUFFIXES)} file.")
        return files
    if place.is_file():
        if place.suffix not in SUFFIXES:
            raise UserError(
                f"{path}: files of kind {place.suffix or 'no suffix'!r} are not read; "
                f"convert it to one of {', '.join(SUFFIXES)}."
            )
        return [place]
    # A misspelt file of a folder that exists is not worth asking the network about.
    is_local = place.suffix in SUFFIXES + OTHER_SUFFIXES or place.parent.is_dir()
    if HUB_ID.fullmatch(path) and not is_local:
        return None
    raise UserError(f"there is no file {path}; check the path (relative paths start at {Path.cwd()}).")


def file_rows(file: Path) -> Iterator[tuple[RawRow | UserError, str]]:
    readers = {".jsonl": jsonl_rows, ".json": json_rows, ".parquet": parquet_rows}
    return readers[file.suffix](file)


def jsonl_rows(file: Path) -> Iterator[tuple[RawRow | UserError, str]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield parse_line(line, f"{file}:{number}"), f"{file}:{number}"


def parse_line(line: bytes, origin: str) -> RawRow | UserError:
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        return UserError(f"{origin}: not UTF-8 text ({error.reason}); save the file as UTF-8.")
    except json.JSONDecodeError as error:
        where = f"column {error.colno}"
        return UserError(
            f"{origin}: broken JSON ({error.msg} at {where}); every line must be one JSON object."
        )
    return row if isinstance(row, dict) else not_an_object(origin)


def not_an_object(origin: str) -> UserError:
    return UserError(f"{origin}: the row is not a JSON object; write {{...}} with named columns.")


def json_rows(file: Path) -> Iterator[tuple[RawRow | UserError, str]]:
    try:
        rows = json.loads(file.read_bytes() or b"[]")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason}); save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}: broken JSON ({error.msg}, line {error.lineno}, column {error.colno}). "
            "If it holds one object a line, name it .jsonl."
        ) from error
    if not isinstance(rows, list):
        raise UserError(
            f"{file}: holds {type(rows).__name__}, not a list; write [{{...}}, ...] or a .jsonl file."
        )
    for number, row in enumerate(rows, 1):
        origin = f"{file}:{number}"
        yield row if isinstance(row, dict) else not_an_object(origin), origin


def parquet_rows(file: Path) -> Iterator[tuple[RawRow | UserError, str]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        for batch in table.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield row, f"{file}:{number}"
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a readable Parquet file after row {number} ({error}).") from error


def hub_rows(path: str) -> Iterator[tuple[RawRow, str]]:
    name, _, rest = path.partition(":")
    config, _, split = rest.partition(":")
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"there is no file {path}; to read it as a data set of the Hugging Face hub run: "
            "pip install 'rung[hub]'"
        ) from error
    try:  # the network, the hub and its data are not ours
        table = datasets.load_dataset(name, config or None, split=split or "train")
    except Exception as error:
        raise UserError(
            f"there is no file {path}, and the hub data set {name!r} could not be loaded "
            f"({type(error).__name__}: {error}). Offline, download it where a network is with: "
            f"hf download {name} --repo-type dataset --local-dir {Path(name).name}"
        ) from error
    for number, row in enumerate(table, 1):
        yield row, f"{path}:{number}"
