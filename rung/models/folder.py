"""Hugging Face model folders in and out: safetensors, config, tokenizer, chat template, generation defaults.

Reading checks every name and shape in the file headers before a tensor is touched, then takes one tensor at a
time, so that memory peaks at one copy of the model in the dtype asked for. Writing goes through
`rung.publish`, so a folder is there whole or not at all, and plain `transformers` opens it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rung.errors import UserError
from rung.publish import Existing, publish

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DERIVED = re.compile(
    r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$"
)  # old checkpoints store what config says
SHARD_BYTES = 5_000_000_000


def read_config(path: Path) -> dict[str, Any]:
    """The folder's config.json."""
    config = _read_json(path, "config.json")
    if config is None:
        remedy = "give the folder that holds config.json and *.safetensors"
        if (path / "adapter_config.json").exists():
            remedy = (
                "it is a LoRA adapter: name its base as the model, or fold it in with `rung merge-adapter`"
            )
        raise UserError(f"{path} is no model folder: it has no config.json; {remedy}")
    if "model_type" not in config:
        raise UserError(f"{path / 'config.json'} has no model_type, so the architecture is unknown; add it")
    return config


def read_generation_config(path: Path) -> dict[str, Any]:
    """The folder's generation_config.json, empty where there is none."""
    return _read_json(path, "generation_config.json") or {}


def read_tensors(path: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Every tensor of the folder, floating ones in `dtype` if given."""
    return {name: _fetch(file, name, dtype) for name, (file, _) in tensor_headers(path).items()}


def load_into(module: nn.Module, path: Path, dtype: torch.dtype | None = None) -> None:
    """Give `module`, on the meta device or real, the folder's tensors, matched by their state dict names.

    All that does not fit is told in one error, before anything is assigned.
    """
    headers = tensor_headers(path)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    extra = [name for name in headers if name not in wanted and not DERIVED.search(name)]
    if HEAD in extra and EMBEDDING in wanted:
        _check_tied_head(path, headers)
        extra.remove(HEAD)
    missing = [name for name in wanted if name not in headers]
    misshapen = [
        f"{name} is {list(headers[name][1])} in {headers[name][0].name}, the config says {list(shape)}"
        for name, shape in wanted.items()
        if name in headers and headers[name][1] != shape
    ]
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (
            ("tensors missing", missing),
            ("tensors the model has no place for", extra),
            ("tensors of another shape", misshapen),
        )
        if names
    ]
    if problems:
        hint = "; if the head is the embedding, set tie_word_embeddings" if missing == [HEAD] else ""
        raise UserError(
            f"{path} does not hold the model its config.json describes. {'. '.join(problems)}. "
            f"Fetch or export it again, or correct config.json{hint}"
        )
    for name in wanted:
        _assign(module, name, _fetch(headers[name][0], name, dtype))


def check_vocabulary(tokenizer: Any, config: Mapping[str, Any]) -> None:
    """Refuse a tokenizer that knows ids the embedding has no row for. Spare rows are common and fine."""
    highest, rows = max(tokenizer.get_vocab().values()), config["vocab_size"]
    if highest >= rows:
        raise UserError(
            f"the tokenizer's ids go up to {highest} ({tokenizer.convert_ids_to_tokens(highest)!r}), but the "
            f"model's embedding has {rows} rows, for ids 0 to {rows - 1}. Use the tokenizer the model came "
            "with; tokens added to it need rows added to the embedding"
        )


def digest(tensors: Mapping[str, Tensor]) -> str:
    """One sha256 over names, dtypes, shapes and bytes, whatever the order: equal digests, equal weights."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def write_folder(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    tokenizer: Any = None,
    generation_config: Mapping[str, Any] | None = None,
    max_shard_bytes: int = SHARD_BYTES,
    existing: Existing = "refuse",
) -> None:
    """Write a folder that `transformers` opens; the generation config defaults to the special tokens."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    with publish(path, existing, size + size // 100 + 20_000_000) as folder:  # the tokenizer is a few MB
        write_files(folder, tensors, config, tokenizer, generation_config, max_shard_bytes)


def write_files(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    tokenizer: Any = None,
    generation_config: Mapping[str, Any] | None = None,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """The files of such a folder, into one that exists; a checkpoint adds its own beside them."""
    if config.get("tie_word_embeddings") and HEAD in tensors:
        tensors = {name: tensor for name, tensor in tensors.items() if name != HEAD}
    write_tensors(folder, tensors, max_shard_bytes)
    kept = {key: value for key, value in config.items() if key != "torch_dtype"}
    _write_json(folder / "config.json", {**kept, "dtype": _main_dtype(tensors)})
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if generation_config is None:
        generation_config = special_tokens(config, tokenizer)
    _write_json(folder / "generation_config.json", generation_config)


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], max_shard_bytes: int = SHARD_BYTES) -> None:
    """One safetensors file, or several with an index, into a folder that exists."""
    shards = _shards(tensors, max_shard_bytes)
    names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    names = [SINGLE] if len(shards) == 1 else names
    for file, shard in zip(names, shards, strict=True):
        _save({name: tensors[name].detach().cpu().contiguous() for name in shard}, folder / file)
    if len(shards) > 1:
        where = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        size = sum(tensor.nbytes for tensor in tensors.values())
        _write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": where})


def special_tokens(config: Mapping[str, Any], tokenizer: Any = None) -> dict[str, Any]:
    """Generation defaults: every id that ends a text (the tokenizer's and the config's), begin and pad."""
    ends = config.get("eos_token_id")
    ends = [*ends] if isinstance(ends, list | tuple) else [ends]
    ids = {"bos_token_id": config.get("bos_token_id"), "pad_token_id": config.get("pad_token_id")}
    if tokenizer is not None:
        ends = [tokenizer.eos_token_id, *ends]
        ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    return {key: value for key, value in {**ids, "eos_token_id": ends or None}.items() if value is not None}


Headers = dict[str, tuple[Path, tuple[int, ...]]]  # tensor name -> the file it is in, its shape


def tensor_headers(path: Path) -> Headers:
    """Where every tensor is, from the headers of all files; nothing is read beyond them."""
    index = _read_json(path, INDEX)
    if index is None:
        if not (path / SINGLE).exists():
            pickled = any(path.glob("pytorch_model*.bin"))
            raise UserError(
                f"{path} has no {SINGLE} and no {INDEX}; "
                + ("its .bin files can run code when opened: convert them to safetensors" * pickled)
                + ("fetch the model again, with its weights" * (not pickled))
            )
        return {name: (path / SINGLE, shape) for name, shape in _shapes(path / SINGLE).items()}
    where: dict[str, str] = index["weight_map"]
    files = sorted(set(where.values()))
    absent = [file for file in files if not (path / file).exists()]
    if absent:
        raise UserError(
            f"{path} misses {len(absent)} of its {len(files)} weight files: {_some(absent)}; fetch it again"
        )
    shapes = {file: _shapes(path / file) for file in files}
    gone = [name for name, file in where.items() if name not in shapes[file]]
    if gone:
        raise UserError(
            f"{path / INDEX} promises tensors its files do not hold: {_some(gone)}; fetch it again"
        )
    return {name: (path / file, shapes[file][name]) for name, file in where.items()}


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(
            f"{file} is truncated or no safetensors file ({file.stat().st_size} bytes; {error}); "
            "copy or fetch it again"
        ) from error


def _fetch(file: Path, name: str, dtype: torch.dtype | None) -> Tensor:
    """A tensor with memory of its own. The file is mapped anew for each, so pages already read are let go."""
    with safe_open(file, "pt") as tensors:
        tensor = tensors.get_tensor(name)
        return tensor.to(dtype if dtype and tensor.is_floating_point() else tensor.dtype, copy=True)


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    holder = module.get_submodule(owner)
    old = getattr(holder, leaf)
    if isinstance(old, nn.Parameter):
        setattr(holder, leaf, nn.Parameter(tensor, requires_grad=old.requires_grad))
    else:
        setattr(holder, leaf, tensor)


def _check_tied_head(path: Path, headers: Headers) -> None:
    """A file may repeat the embedding as the head of a tied model, but it must be a repetition."""
    if EMBEDDING in headers and not torch.equal(
        *(_fetch(headers[name][0], name, None) for name in (EMBEDDING, HEAD))
    ):
        raise UserError(
            f"{path}/config.json ties the head to the embedding, but {HEAD} in {headers[HEAD][0].name} "
            "differs from it; set tie_word_embeddings to false in config.json"
        )


def _shards(tensors: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += tensor.nbytes
    return shards


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))  # how safetensors reports a full disk
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error
    file.chmod(file.parent.stat().st_mode & 0o666)  # safetensors lets only the owner read


def _main_dtype(tensors: Mapping[str, Tensor]) -> str:
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        sizes[tensor.dtype] += tensor.nbytes
    return str(sizes.most_common(1)[0][0]).removeprefix("torch.")


def _read_json(path: Path, name: str) -> dict[str, Any] | None:
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; give the folder that holds config.json and *.safetensors")
    if not (path / name).exists():
        return None
    try:
        value = json.loads((path / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path / name} is not valid JSON ({error}); fetch or write it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path / name} must hold one JSON object, not {type(value).__name__}")
    return value


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _some(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
