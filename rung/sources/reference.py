"""Log-probs of the start policy, computed once and kept on disk.

Offline pairs do not change, and the reference is frozen, so no step needs a second model: one pass before
training scores every pair that will be read, in the very micro-batches of its first visit. Therefore the
policy's first step repeats the same arithmetic, and its log-ratios are exactly 0 in every precision.

The key of the cache is a digest of the start's weights, of how they are computed with, and of every token,
mask and boundary of those micro-batches; it thus covers rows, tokenizer, template and layout. Sweeps over
beta, learning rate or method read the same file.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rung import dist
from rung.batch import Example, Pair, prediction_sites
from rung.methods.preference import REFERENCE
from rung.run import write_atomically
from rung.sources.preferences import PreferenceSource
from rung.train import Scorer

FORMAT = "1"  # part of every key: raise it when the same batches would be stored differently


def with_reference(
    source: PreferenceSource,
    steps: int,
    start: Callable[[], Scorer],
    identity: Sequence[str],
    folder: Path,
    device: str | torch.device = "cpu",
) -> list[Pair]:
    """The source's pairs, those read in `steps` steps with their reference column.

    `start()` gives the frozen start policy's scorer and is called only where the cache has no answer;
    `identity` names its weights and everything else that its numbers depend on.
    """
    visits = list(source.first_visits(steps))
    path = folder / f"{cache_key(identity, source, visits)}.npy"
    if dist.rank() == 0 and not path.exists():
        values = score_all(source, visits, start(), device)
        folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, values)
        write_atomically(path, buffer.getvalue())
    dist.wait()
    return attach(source, visits, np.load(path))


def cache_key(identity: Sequence[str], source: PreferenceSource, visits: Sequence[Sequence[int]]) -> str:
    total = hashlib.sha256("\n".join([FORMAT, *identity]).encode())
    for rows in visits:
        batch = source.batch(rows)
        total.update(f"{batch.lengths} {batch.parents}".encode())
        total.update(batch.token_ids_N.numpy().tobytes())
        total.update(batch.trained_N.numpy().tobytes())
    return total.hexdigest()


@torch.no_grad()
def score_all(
    source: PreferenceSource, visits: Sequence[Sequence[int]], scorer: Scorer, device: str | torch.device
) -> np.ndarray:
    """float32 log-probs of the trained tokens of all micro-batches, end to end."""
    parts = [scorer(source.batch(rows).to(device)).logprob_M.float().cpu() for rows in visits]
    return torch.cat(parts).numpy()


def attach(source: PreferenceSource, visits: Sequence[Sequence[int]], values: np.ndarray) -> list[Pair]:
    pairs = list(source.pairs)
    used = 0
    for rows in visits:
        batch = source.batch(rows)
        tokens_M = prediction_sites(batch)[1]
        column_N = torch.zeros(len(batch.token_ids_N))
        column_N[tokens_M] = torch.from_numpy(values[used : used + len(tokens_M)])
        used += len(tokens_M)
        starts = [0, *accumulate(batch.lengths)]
        for row, both in zip(rows, batch.pairs, strict=True):
            if pairs[row] is source.pairs[row]:  # the first visit is the one that counts
                pieces = [column_N[starts[i] : starts[i + 1]] for i in both]
                pairs[row] = Pair(
                    with_column(source.pairs[row].chosen, pieces[0]),
                    with_column(source.pairs[row].rejected, pieces[1]),
                )
    return pairs


def with_column(example: Example, piece: Tensor) -> Example:
    """`piece` covers the end of the document; the beginning it leaves out is the untrained trunk."""
    column = np.zeros(len(example), np.float32)
    column[len(example) - len(piece) :] = piece.numpy()
    return replace(example, columns={**example.columns, REFERENCE: column})
