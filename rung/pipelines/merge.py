"""Model folders into one model folder, tensor by tensor: memory stays at a few blocks, whatever the size.

Before a tensor is read, everything that would make a sum of weights meaningless is refused: other shapes, another
architecture, tokens with other ids. What was merged is checked before the folder appears under its name.

With `align` vocabularies may differ: rows of the embedding and the head are brought together by the string of
their token. The merged model has the vocabulary of the reference; in a model that lacks one of its tokens, the
reference's row stands in, so there that model adds nothing of its own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rung.errors import UserError
from rung.merge.blocks import Blocks
from rung.models.config import DecoderConfig, supported
from rung.models.folder import (
    DERIVED,
    EMBEDDING,
    HEAD,
    check_vocabulary,
    read_config,
    read_generation_config,
    special_tokens,
)
from rung.models.hub import load_tokenizer, resolve
from rung.models.stream import Stored, stored_digest, stored_tensors, write_stream
from rung.models.tokens import tokens_in
from rung.publish import publish, sweep

# Elements in memory at once, for each model: just below the 2^15 that torch splits over threads, and in cache.
BLOCK = 511 * 64
READ = 4  # blocks that are read at once
VOCABULARY = (EMBEDDING, HEAD, "lm_head.bias")  # a row for each token
TOKENIZER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*"),
    *("vocab.*", "merges.txt"),
)
Method = Callable[[Blocks, int], Iterator[Tensor]]  # blocks of a tensor and dice of its own -> merged blocks


@dataclass(frozen=True)
class Parent:
    name: str
    path: Path
    config: dict[str, Any]
    tensors: Mapping[str, Stored]
    vocabulary: dict[str, int]  # token -> id
    chat: bool  # whether it has a chat template

    @classmethod
    def open(cls, name: str) -> Parent:
        path = resolve(name)
        config, (vocabulary, chat) = read_config(path), tokens_in(path)
        tensors = {n: one for n, one in stored_tensors(path).items() if not DERIVED.search(n)}
        if config.get("tie_word_embeddings") and HEAD in tensors:
            must_repeat(path, tensors)
            del tensors[HEAD]
        return cls(name, path, config, tensors, vocabulary, chat)


@dataclass(frozen=True)
class Plan:
    """Parents that fit together. The reference gives config, tokenizer, template and the order of tokens."""

    parents: list[Parent]  # the base first, where the method has one
    reference: Parent
    dtype: torch.dtype | None  # None: that of the reference's tensors

    def layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        return {
            name: ((self.dtype if self.dtype and one.dtype.is_floating_point else one.dtype), one.shape)
            for name, one in self.reference.tensors.items()
        }

    def blocks(self, name: str) -> Blocks:
        mine = self.reference.tensors[name]
        width = mine.numel // max(mine.shape[0], 1) if mine.shape else 1
        step = max(BLOCK // width, 1) * width if name in VOCABULARY else BLOCK
        rows = (
            {p.name: rows_of(p, self.reference, mine.shape[0]) for p in self.parents}
            if name in VOCABULARY
            else {}
        )

        def read() -> Iterator[list[Tensor]]:
            for start in range(0, mine.numel, READ * step):
                stop = min(start + READ * step, mine.numel)
                pieces = [self.piece(p, name, start, stop, rows.get(p.name), width) for p in self.parents]
                for at in range(0, stop - start, step):
                    yield [piece[at : at + step].double() for piece in pieces]

        return read

    def piece(
        self, parent: Parent, name: str, start: int, stop: int, rows: Sequence[int] | None, width: int
    ) -> Tensor:
        theirs = parent.tensors[name]
        if rows is None:
            return theirs.read(start, stop)
        wanted = torch.tensor(rows[start // width : stop // width])
        piece = self.reference.tensors[name].read(start, stop).view(-1, width).to(theirs.dtype)
        has = wanted >= 0
        found = theirs.runs([(row * width, (row + 1) * width) for row in wanted[has].tolist()])
        piece[has] = found.view(-1, width)
        return piece.view(-1)


def plan(models: Sequence[str], base: str, *, align: bool = False, dtype: torch.dtype | None = None) -> Plan:
    """Open everything and refuse what does not fit together; no weight is read yet."""
    parents = [Parent.open(name) for name in ([base] if base else []) + list(models)]
    tuned = parents[1:] if base else parents
    reference = next((parent for parent in tuned if parent.chat), tuned[0])
    for parent in parents:
        must_fit(parent, reference, align)
    return Plan(parents, reference, dtype)


def write_merge(plan: Plan, method: Method, folder: Path, seed: int = 0) -> None:
    """The whole model folder, into one that exists."""

    def pieces(name: str) -> Iterator[Tensor]:
        dtype = plan.layout()[name][0]
        if not dtype.is_floating_point:
            yield from the_same(plan, name)
            return
        key = hashlib.sha256(f"{seed} {name}".encode()).digest()
        for piece in method(plan.blocks(name), int.from_bytes(key[:6], "little")):
            rounded = piece.to(dtype)
            if not finite(rounded):
                not_finite(plan, name, dtype)
            yield rounded

    write_stream(folder, plan.layout(), pieces)
    reference, dtypes = plan.reference, [dtype for dtype, _ in plan.layout().values()]
    kept = {key: value for key, value in reference.config.items() if key not in ("torch_dtype", "dtype")}
    widest = str(max(set(dtypes), key=dtypes.count)).removeprefix("torch.")
    write_json(folder / "config.json", {**kept, "dtype": widest})
    for pattern in TOKENIZER_FILES:
        for file in reference.path.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
    generation = read_generation_config(reference.path)
    write_json(
        folder / "generation_config.json",
        generation or special_tokens(reference.config, load_tokenizer(str(folder))),
    )
    must_be_whole(folder, plan)


def merge(
    plan: Plan,
    method: Method,
    out: Path,
    *,
    seed: int = 0,
    lineage: Mapping[str, Any],
    check: Callable[[Path], None] | None = None,
) -> None:
    """Publish the merged folder with its lineage. `check` sees it before it has its name, and may refuse it."""
    sweep(
        out.parent, name=out.name
    )  # what a killed merge left; its neighbours may be written on other machines
    with publish(out, size=size_of(plan)) as folder, digests_of(plan.parents) as digests:
        write_merge(plan, method, folder, seed)
        parents = [{"name": p.name, "digest": d} for p, d in zip(plan.parents, digests, strict=True)]
        write_json(folder / "lineage.json", {**lineage, "seed": seed, "parents": parents})
        if check is not None:
            check(folder)


@contextmanager
def digests_of(parents: Sequence[Parent]) -> Iterator[Iterator[str]]:
    """One after another, beside the merge; when that fails, those not begun are dropped."""
    pool = ThreadPoolExecutor(1)
    try:
        yield pool.map(stored_digest, [parent.path for parent in parents])
    finally:
        pool.shutdown(cancel_futures=True)


def size_of(plan: Plan) -> int:
    weights = sum(dtype.itemsize * plan.reference.tensors[n].numel for n, (dtype, _) in plan.layout().items())
    return weights + weights // 100 + 20_000_000  # the tokenizer is a few MB


# ---- what must be so before ----


def must_fit(parent: Parent, reference: Parent, align: bool) -> None:
    """One error with everything that differs."""
    if parent is reference:
        return
    problems = [*different_architecture(parent, reference)]
    if not problems:
        problems = different_tensors(parent, reference, align)
    if problems:
        raise UserError(
            f"{parent.name} and {reference.name} cannot be merged: {'; '.join(problems)}. Merging averages weight by "
            "weight, so all models must be trainings of one start"
        )
    if parent.vocabulary != reference.vocabulary and not align:
        raise UserError(
            f"{parent.name} and {reference.name} have different tokenizers: {token_difference(parent, reference)}. "
            "Rows of one embedding would be added to rows of other tokens. Write --align-tokens to bring rows "
            "together by the token's string"
        )


def different_architecture(parent: Parent, reference: Parent) -> list[str]:
    mine, theirs = parent.config, reference.config
    if mine["model_type"] != theirs["model_type"]:
        return [f"a {mine['model_type']} model and a {theirs['model_type']} model"]
    if shape_of(mine) == shape_of(theirs) or not (supported(mine) and supported(theirs)):
        return []
    one, other = (asdict(DecoderConfig.from_hf(config)) for config in (mine, theirs))
    differing = [key for key in one if key not in ("hf", "vocabulary", "context") and one[key] != other[key]]
    return [f"{key} is {short(one[key])} and {short(other[key])}" for key in differing]


def shape_of(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in ("dtype", "torch_dtype", "transformers_version")}


def short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 80 else text[:77] + "..."


def different_tensors(parent: Parent, reference: Parent, align: bool) -> list[str]:
    missing = [name for name in reference.tensors if name not in parent.tensors]
    extra = [name for name in parent.tensors if name not in reference.tensors]
    shapes = []
    for name in [name for name in reference.tensors if name in parent.tensors]:
        mine, theirs = parent.tensors[name].shape, reference.tensors[name].shape
        rows_differ = name in VOCABULARY and mine[1:] == theirs[1:]
        if mine != theirs and not (align and rows_differ):
            remedy = " (--align-tokens brings vocabularies of different size together)" if rows_differ else ""
            shapes.append(f"{name} is {list(mine)} and {list(theirs)}{remedy}")
    parts = [(missing, f"tensors missing in {parent.name}"), (extra, f"missing in {reference.name}")]
    problems = [f"{len(names)} {what}: {some(names)}" for names, what in parts if names]
    return problems + ([f"{len(shapes)} of another shape: {some(shapes)}"] if shapes else [])


def some(names: Sequence[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def token_difference(parent: Parent, reference: Parent) -> str:
    mine, theirs = parent.vocabulary, reference.vocabulary
    moved = [token for token in mine if token in theirs and mine[token] != theirs[token]]
    alone = len(mine.keys() - theirs.keys()), len(theirs.keys() - mine.keys())
    example = f" ({moved[0]!r} is {mine[moved[0]]} and {theirs[moved[0]]})" if moved else ""
    return f"{len(moved):,} tokens with other ids{example}, {alone[0]:,} only in the first, {alone[1]:,} only in the second"


def rows_of(parent: Parent, reference: Parent, count: int) -> list[int] | None:
    """For each of the reference's rows the parent's row of the same token, -1 where it has none. None: as it stands."""
    if parent.vocabulary == reference.vocabulary:
        same = parent.tensors[EMBEDDING].shape == reference.tensors[EMBEDDING].shape
        if same:
            return None
    rows = [-1] * count  # spare rows belong to no token
    for token, place in reference.vocabulary.items():
        rows[place] = parent.vocabulary.get(token, -1)
    return rows


def must_repeat(path: Path, tensors: Mapping[str, Stored]) -> None:
    """A file may repeat the embedding as the head of a tied model, but it must be a repetition."""
    head, embedding = tensors[HEAD], tensors[EMBEDDING]
    for start in range(0, head.numel, BLOCK):
        stop = min(start + BLOCK, head.numel)
        if head.shape != embedding.shape or not torch.equal(
            head.read(start, stop), embedding.read(start, stop)
        ):
            raise UserError(
                f"{path}/config.json ties the head to the embedding, but {HEAD} differs from it; set "
                "tie_word_embeddings to false in config.json"
            )


def the_same(plan: Plan, name: str) -> Iterator[Tensor]:
    """A tensor of whole numbers, which has no mean: all must agree."""
    for start in range(0, plan.reference.tensors[name].numel, BLOCK):
        stop = min(start + BLOCK, plan.reference.tensors[name].numel)
        mine = plan.reference.tensors[name].read(start, stop)
        for parent in plan.parents:
            if not torch.equal(parent.tensors[name].read(start, stop), mine):
                raise UserError(
                    f"{name} holds whole numbers, which cannot be averaged, and {parent.name} has others than "
                    f"{plan.reference.name}"
                )
        yield mine


# ---- what must be so after ----


def finite(piece: Tensor) -> bool:
    """In one pass and without a tensor of answers: NaN and infinity both show in the extremes."""
    return not piece.numel() or all(bool(end.isfinite()) for end in piece.aminmax())


def not_finite(plan: Plan, name: str, dtype: torch.dtype) -> None:
    for parent in plan.parents:
        tensor = parent.tensors[name]
        for start in range(0, tensor.numel, BLOCK):
            if not finite(tensor.read(start, min(start + BLOCK, tensor.numel))):
                raise UserError(
                    f"{name} of {parent.name} is not finite (NaN or infinite); leave that model out"
                )
    raise UserError(
        f"the merged {name} has entries beyond the range of {str(dtype).removeprefix('torch.')}; lower the scale or "
        "the weights, or write --dtype float32"
    )


def must_be_whole(folder: Path, plan: Plan) -> None:
    """Read back: the tensors the config promises, a tied head written once, the reference's tokenizer."""
    written = {name: (one.dtype, one.shape) for name, one in stored_tensors(folder).items()}
    assert written == plan.layout(), "a tensor was not written as planned"
    assert not (plan.reference.config.get("tie_word_embeddings") and HEAD in written)
    tokens, _ = tokens_in(folder)
    assert tokens == plan.reference.vocabulary, "the tokenizer was not copied whole"
    if max(tokens.values()) >= plan.reference.config["vocab_size"]:
        check_vocabulary(load_tokenizer(str(folder)), plan.reference.config)


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
