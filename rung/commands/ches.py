"""`rung data ches`: score preference pairs by how surely DPO would lower both answers, and drop the worst."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from rung.errors import UserError

if TYPE_CHECKING:
    from rung.batch import Pair


@dataclass(frozen=True)
class DataChes:
    """Score each pair by CHES, how alike its two answers are to a model; keep the pairs below a threshold."""

    file: tyro.conf.Positional[str]
    """JSONL, JSON or Parquet file, a folder of them, or a hub id, of rows with chosen and rejected."""
    model: str = "smollm2-135m"
    """The model that will be trained on the pairs: the score is of its hidden states."""
    drop: float = 0.2
    """Share of the pairs to leave out, those with the highest scores."""
    by: Literal["normalised", "raw"] = "normalised"
    """Score to rank by: per token (length-normalised) or summed."""
    out: str = ""
    """Write the rows that are kept to this JSONL file, each with its scores under `ches`."""
    max_length: int = 1024
    """Longest document in tokens; pairs with a longer one are left out."""
    micro_tokens: int = 2048
    """Tokens that go through the model at once."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes the first GPU."""


def main(settings: DataChes) -> int:
    if not 0 <= settings.drop < 1:
        raise UserError(f"--drop is {settings.drop}, and it is a share from 0 to below 1. Write 0.2.")
    if settings.out and Path(settings.out).exists():
        raise UserError(f"--out {settings.out} exists, and it is never written over. Choose another name.")
    from rung.data.ches import keep_lowest
    from rung.data.examples import load_pairs
    from rung.models.folder import read_generation_config
    from rung.models.hub import load_tokenizer, resolve

    data = load_pairs(
        [settings.file],
        load_tokenizer(settings.model),
        max_length=settings.max_length,
        generation_config=read_generation_config(resolve(settings.model)) or None,
    )
    scores = score_pairs(settings, data.pairs)
    ranked = [both[settings.by] for both in scores]
    kept = keep_lowest(ranked, settings.drop)
    report(settings, data.pairs, ranked, kept)
    if settings.out:
        wanted = {data.pairs[i].chosen.origin: scores[i] for i in kept}
        write_rows(settings, wanted)
    return 0


def score_pairs(settings: DataChes, pairs: list[Pair]) -> list[dict[str, float]]:
    """Both scores of every pair, in order, from one forward per micro-batch."""
    import torch

    from rung.batch import collate_pairs, pair_tokens
    from rung.data.ches import ches
    from rung.data.pack import pack
    from rung.models.decoder import Documents
    from rung.models.load import load_model
    from rung.pipelines.setup import choose_device

    device = choose_device(settings.device)
    model = load_model(settings.model, torch.float32, device)
    model.eval()
    lengths = [pair_tokens(pair) for pair in pairs]
    scores: list[dict[str, float]] = [{}] * len(pairs)
    for rows in pack(lengths, max(settings.micro_tokens, *lengths)):
        batch = collate_pairs([pairs[row] for row in rows]).to(device)
        with torch.no_grad():
            hidden = model(batch.token_ids_N, batch.positions_N, Documents(batch.lengths, batch.parents))
        found = ches(hidden.states_ND, batch)
        both = zip(found.normalised_P.tolist(), found.raw_P.tolist(), strict=True)
        for row, (normalised, raw) in zip(rows, both, strict=True):
            scores[row] = {"normalised": normalised, "raw": raw}
    return scores


def report(settings: DataChes, pairs: list[Pair], ranked: list[float], kept: list[int]) -> None:
    import numpy as np

    lowest, median, highest = (float(np.quantile(ranked, q)) for q in (0, 0.5, 1))
    print(f"pairs    {len(pairs):,}, {settings.by} CHES {lowest:.4g} to {highest:.4g}, median {median:.4g}")
    print(f"kept     {len(kept):,}, up to a score of {max((ranked[i] for i in kept), default=lowest):.4g}")
    worst = sorted(range(len(pairs)), key=lambda i: -ranked[i])[:3]
    for i in worst:
        print(f"highest  {ranked[i]:.4g}  {pairs[i].chosen.origin}")


def write_rows(settings: DataChes, wanted: dict[str, dict[str, float]]) -> None:
    from rung.data.files import read_rows
    from rung.run import write_atomically

    rows: list[dict[str, Any]] = [
        {**row, "ches": wanted[origin]} for row, origin in read_rows(settings.file) if origin in wanted
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(Path(settings.out), text)
    print(f"wrote    {settings.out}: {len(rows):,} rows", file=sys.stderr)
