"""A teacher's word on data that does not change: asked once, kept on disk as k log-probs and the mass of the rest.

Offline text is scored by the teacher before the first step, whoever the teacher is: a model in this process, one in
a process of its own, or a server. Training then holds the student only. What a document's trained tokens got
lies in one row per token of a file, and the document carries its number in the column `teacher_document`; batches
stay small, and the file is mapped, not read.

The key of the cache is a digest of who the teacher is and how it was asked, and of every token and mask of the
documents. A teacher that fails halfway leaves nothing behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from rung import dist
from rung.batch import Batch, Example, collate, prediction_sites
from rung.data.pack import pack
from rung.kernels.linear_divergence import TopK
from rung.publish import publish

FORMAT = "1"  # part of every key: raise it when the same documents would be stored differently
COLUMN = "teacher_document"
FILE = "tokens.npy"

# Documents to one TopK each, of their trained tokens, in order.
Asked = Callable[[Sequence[Example]], Iterator[TopK]]


@dataclass(frozen=True)
class CachedTeacher:
    """Called with a batch of documents that carry their number, says what the teacher said of them."""

    rows: ndarray  # structured [tokens of all documents]: ids int32 [k], logprobs float32 [k], tail float32
    starts: ndarray  # int64 [documents + 1]

    def __call__(self, batch: Batch) -> TopK:
        tokens_M = prediction_sites(batch)[1].cpu()
        lengths = torch.tensor(batch.lengths)
        document_M = torch.repeat_interleave(torch.arange(len(batch)), lengths)[tokens_M]
        trained_B = torch.bincount(document_M, minlength=len(batch))
        before_B = trained_B.cumsum(0) - trained_B
        within_M = (torch.arange(len(tokens_M)) - before_B[document_M]).numpy()
        number_M = batch.columns[COLUMN].cpu()[tokens_M].long().numpy()
        found = self.rows[self.starts[number_M] + within_M]
        device = batch.token_ids_N.device
        parts = (found["ids"].astype(np.int64), found["logprobs"], found["tail"])
        return TopK(*(torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in parts))


def taught(
    examples: Sequence[Example], asked: Callable[[], Asked], identity: Sequence[str], k: int, folder: Path
) -> tuple[list[Example], CachedTeacher]:
    """The documents with their numbers, and the teacher that knows them by these.

    `asked()` gives the teacher and is called only where the cache has no answer; `identity` names all that its
    numbers depend on.
    """
    counts = [int(example.trained[1:].sum()) for example in examples]
    starts = np.cumsum([0, *counts], dtype=np.int64)
    path = folder / cache_key([*identity, str(k)], examples)
    if dist.rank() == 0 and not (path / FILE).exists():
        kind = np.dtype([("ids", "<i4", (k,)), ("logprobs", "<f4", (k,)), ("tail", "<f4")])
        with publish(path, "keep", int(starts[-1]) * kind.itemsize) as temporary:
            file = np.lib.format.open_memmap(temporary / FILE, "w+", kind, (int(starts[-1]),))
            answers = asked()(examples)
            for number, (answer, count) in enumerate(zip(answers, counts, strict=True)):
                rows = slice(starts[number], starts[number] + count)
                file["ids"][rows], file["logprobs"][rows] = answer.ids_Nk, answer.logprobs_Nk
                file["tail"][rows] = answer.tail_N
            file.flush()
            del file
    dist.wait()
    numbered = [
        replace(e, columns={**e.columns, COLUMN: np.full(len(e), number, np.float32)})
        for number, e in enumerate(examples)
    ]
    return numbered, CachedTeacher(np.load(path / FILE, mmap_mode="r"), starts)


def cache_key(identity: Sequence[str], examples: Sequence[Example]) -> str:
    total = hashlib.sha256("\n".join([FORMAT, *identity]).encode())
    for example in examples:
        total.update(f"{len(example)} ".encode())
        total.update(example.token_ids.astype(np.int32).tobytes())
        total.update(example.trained.astype(bool).tobytes())
    return total.hexdigest()


def in_batches(top_k: Callable[[Batch], TopK], micro_tokens: int, device: torch.device | str) -> Asked:
    """A teacher that scores batches, asked about documents: short ones are read together."""

    def asked(examples: Sequence[Example]) -> Iterator[TopK]:
        for start in range(
            0, len(examples), 256
        ):  # a window at a time: answers come in order and are not hoarded
            window = examples[start : start + 256]
            answers: dict[int, TopK] = {}
            for members in pack([len(e) for e in window], max(micro_tokens, *map(len, window))):
                answer = top_k(collate([window[i] for i in members]).to(device))
                sizes = [int(window[i].trained[1:].sum()) for i in members]
                parts = (answer.ids_Nk, answer.logprobs_Nk, answer.tail_N)
                for i, *split in zip(members, *(part.cpu().split(sizes) for part in parts), strict=True):
                    answers[i] = TopK(*split)
            yield from (answers[i] for i in range(len(window)))

    return asked
