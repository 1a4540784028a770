"""The same documents in the same steps for every contestant: GSM8K rows, packed, dealt out in steps.

All rows are packed once into rows of one length by best-fit decreasing, which is what TRL and rung both do,
and the packed rows are shuffled; an optimizer step is the next few of them. A peer is given the packed
rows. `rung sft` is given a file, as by any user: it shuffles documents and fills each step up to its token
budget, so the file's lines are arranged such that its shuffle yields our steps, which is checked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rung.batch import Example
from rung.data.examples import load_examples
from rung.data.files import read_rows
from rung.data.mixture import epoch_order
from rung.data.pack import pack
from rung.errors import UserError
from rung.models.folder import read_generation_config
from rung.models.hub import load_tokenizer, resolve
from rung.sources.demonstrations import DemonstrationSource

Trained = Literal["all", "answers"]


@dataclass(frozen=True)
class PackedRows:
    steps: list[list[list[Example]]]  # step -> packed row -> documents
    file: Path  # what `rung sft` reads

    def documents(self, step: int) -> list[Example]:
        return [document for row in self.steps[step] for document in row]

    def tokens(self, step: int) -> int:
        return sum(len(document) for document in self.documents(step))

    def targets(self, step: int) -> int:
        """Tokens that the loss counts; the first of a document has nothing that predicts it."""
        return sum(int(document.trained[1:].sum()) for document in self.documents(step))


def prepare(
    data: Path, folder: Path, *, model: str, length: int, rows_per_step: int, steps: int, trained: Trained
) -> PackedRows:
    """Read, tokenise, pack, deal out; writes the file for `rung sft` into `folder`."""
    source = folder / "rows.jsonl"
    lines = [json.dumps(row) for row in gsm8k_rows(data, trained)]
    source.write_text("\n".join(lines) + "\n")
    examples = tokenised(source, model, length)
    bins = pack([len(example) for example in examples], length)
    np.random.default_rng(0).shuffle(bins)
    needed = (steps + 1) * rows_per_step  # one step more, so that the last one measured ends by its budget
    if len(bins) < needed:
        raise UserError(
            f"{data} packs into {len(bins)} rows of {length} tokens, and {steps} steps need {needed}; "
            "give a file with more rows, or fewer --steps"
        )
    dealt = [
        [[examples[i] for i in members] for members in bins[first : first + rows_per_step]]
        for first in range(0, needed, rows_per_step)
    ]
    file = arrange(dealt, lines, folder / "arranged.jsonl", model, length, length * rows_per_step)
    return PackedRows(dealt[:steps], file)


def gsm8k_rows(data: Path, trained: Trained) -> list[dict]:
    """Chats, of which the answers are trained, or plain text, of which every token is."""
    rows = []
    for row, origin in read_rows(str(data)):
        if not {"question", "answer"} <= row.keys():
            raise UserError(f"{origin} has no question and answer; --data takes GSM8K's train.jsonl")
        text = {"text": f"{row['question']}\n{row['answer']}"}
        rows.append(text if trained == "all" else {key: row[key] for key in ("question", "answer")})
    return rows


def tokenised(file: Path, model: str, length: int) -> list[Example]:
    generation_config = read_generation_config(resolve(model)) or None
    tokenizer = load_tokenizer(model)
    return load_examples(
        [str(file)], tokenizer, max_length=length, generation_config=generation_config
    ).examples


def arrange(
    dealt: list[list[list[Example]]], lines: list[str], file: Path, model: str, length: int, budget: int
) -> Path:
    """Write the rows such that the shuffle of `rung sft` (seed 0) yields the dealt steps, and check it."""
    # Longest first, so that the first document of a step never fits what the step before left free.
    stream = [
        document
        for step in dealt
        for document in sorted((d for row in step for d in row), key=len, reverse=True)
    ]
    placed = [""] * len(stream)
    for place, document in zip(epoch_order([len(stream)], None, seed=0, epoch=0), stream, strict=True):
        placed[place] = lines[int(document.origin.rpartition(":")[2]) - 1]
    file.write_text("\n".join(placed) + "\n")
    examples = tokenised(file, model, length)
    source = DemonstrationSource(examples, [len(examples)], None, step_tokens=budget, micro_tokens=length)
    for number, step in enumerate(dealt[:-1]):
        wanted = sorted(document.token_ids.tolist() for row in step for document in row)
        if sorted(document.token_ids.tolist() for document in source.documents(number)) != wanted:
            raise UserError(
                f"step {number + 1} of `rung sft` would not hold the documents dealt to it; the rows of "
                "--data are too short to be arranged, or rung's order of rows has changed and "
                "benchmarks/packed_rows.py has not"
            )
    return file


def as_trl_rows(rows: PackedRows) -> list[dict]:
    """The columns that TRL's packing makes."""
    return [
        {
            "input_ids": [int(token) for document in row for token in document.token_ids],
            "labels": [
                int(token) if trained else -100
                for document in row
                for token, trained in zip(document.token_ids, document.trained, strict=True)
            ],
            "seq_lengths": [len(document) for document in row],
        }
        for step in rows.steps
        for row in step
    ]
