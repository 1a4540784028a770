"""Tensors of a model folder read and written in pieces, so that memory does not grow with the model.

A safetensors file is 8 bytes of length, a JSON header of that length with each tensor's dtype, shape and place,
and the bytes. Reading takes any run of elements from the place; writing knows every shape beforehand, so it
writes the header first and then whatever comes, tensor after tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from rung.errors import UserError
from rung.models.folder import INDEX, SHARD_BYTES, SINGLE, tensor_headers

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}
DIGEST_BYTES = 1 << 24


@dataclass(frozen=True)
class Stored:
    """A tensor on disk."""

    name: str
    file: Path
    offset: int  # of its first byte in the file
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def read(self, start: int, stop: int) -> Tensor:
        """Elements `start` to `stop` of the flat tensor, in memory of their own."""
        return self.runs([(start, stop)])

    def runs(self, runs: Sequence[tuple[int, int]]) -> Tensor:
        """Several runs of elements, laid end to end."""
        width = self.dtype.itemsize
        room = bytearray(sum(stop - start for start, stop in runs) * width)
        view, filled = memoryview(room), 0
        with self.file.open("rb", buffering=0) as stream:
            for start, stop in runs:
                stream.seek(self.offset + start * width)
                wanted = view[filled : filled + (stop - start) * width]
                while wanted:
                    got = stream.readinto(wanted)
                    if not got:
                        raise UserError(f"{self.file} ends within {self.name}; copy or fetch it again")
                    wanted, filled = wanted[got:], filled + got
        return torch.frombuffer(room, dtype=self.dtype) if room else torch.empty(0, dtype=self.dtype)


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Where each tensor of the folder lies; nothing is read but headers."""
    files = dict.fromkeys(
        file for file, _ in tensor_headers(folder).values()
    )  # truncated files are told there
    found = {}
    for file in files:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in DTYPES:
                raise UserError(
                    f"{file}: {name} is stored as {entry['dtype']}, a quantised type; give the model in "
                    "bfloat16 or float32"
                )
            place = 8 + length + entry["data_offsets"][0]
            found[name] = Stored(name, file, place, DTYPES[entry["dtype"]], tuple(entry["shape"]))
    return found


def stored_digest(folder: Path) -> str:
    """`folder.digest` of all tensors, in pieces."""
    total, tensors = hashlib.sha256(), stored_tensors(folder)
    for name in sorted(tensors):
        one = tensors[name]
        total.update(f"{name} {one.dtype} {list(one.shape)}\n".encode())
        step = DIGEST_BYTES // one.dtype.itemsize
        for start in range(0, one.numel, step):
            piece = one.read(start, min(start + step, one.numel))
            total.update(piece.view(torch.uint8).numpy().data)
    return total.hexdigest()


Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def write_stream(
    folder: Path, layout: Layout, pieces: Callable[[str], Iterator[Tensor]], shard_bytes: int = SHARD_BYTES
) -> None:
    """The folder's safetensors files and their index; `pieces(name)` yields a tensor's elements in order."""
    shards = shards_of(layout, shard_bytes)
    names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    names = [SINGLE] if len(shards) == 1 else names
    for file, shard in zip(names, shards, strict=True):
        write_shard(folder / file, {name: layout[name] for name in shard}, pieces)
    if len(shards) > 1:
        where = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        size = sum(bytes_of(layout[name]) for name in layout)
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_shard(file: Path, layout: Layout, pieces: Callable[[str], Iterator[Tensor]]) -> None:
    # Wide types first, so that every tensor begins at a multiple of its own width.
    names = sorted(layout, key=lambda name: -layout[name][0].itemsize)
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        dtype, shape = layout[name]
        start, end = end, end + bytes_of(layout[name])
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            written = 0
            for piece in pieces(name):
                assert piece.dtype == layout[name][0], f"{name} was promised as {layout[name][0]}"
                written += stream.write(piece.contiguous().view(torch.uint8).numpy().data)
            assert written == bytes_of(layout[name]), f"{name}: {written} bytes written"


def shards_of(layout: Layout, limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, entry in layout.items():
        if shards[-1] and filled + bytes_of(entry) > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += bytes_of(entry)
    return shards


def bytes_of(entry: tuple[torch.dtype, tuple[int, ...]]) -> int:
    dtype, shape = entry
    return prod(shape) * dtype.itemsize
