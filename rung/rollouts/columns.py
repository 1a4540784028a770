"""A graded rollout as a row of a table, and back again, bit for bit.

Rows are wide and flat: one value per column where there is one, lists of numbers for what every token has, a
map for the parts of a reward. `SCHEMA` is the whole format; what is added later raises `SCHEMA_VERSION`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rung.batch import Rollout
from rung.rewards.score import Abstain, Failure, Score, Verdict

SCHEMA_VERSION = 2
KEY = b"rung.rollouts"  # where a file's metadata say that it is one of ours, and of which schema


@dataclass(frozen=True)
class Graded:
    """A rollout, what the reward said of it, and the credit its tokens got. T is `len(rollout)`."""

    rollout: Rollout
    verdict: Verdict
    advantage: np.ndarray  # float32 [T], 0 where not by the model
    weight: np.ndarray | None = None  # float32 [T]
    old_logprob: np.ndarray | None = None  # float32 [T], under the trainer's policy when the round began
    reference_logprob: np.ndarray | None = None  # float32 [T], under the frozen reference
    old_value: np.ndarray | None = None  # float32 [T], what the critic expected before each token
    return_value: np.ndarray | None = None  # float32 [T], what it should have expected
    old_cost: np.ndarray | None = None  # the same two, of costs
    return_cost: np.ndarray | None = None
    decision: np.ndarray | None = None  # float32 [T], 1 where the base model was undecided (ReasonMaxxer)


OF_CREDIT = ("old_value", "return_value", "old_cost", "return_cost", "decision")  # of some recipes only
# Per-token columns: name -> dtype. Those of a rollout are never null; those of its grading may be.
OF_ROLLOUT = {
    "token_ids": np.int32,
    "by_model": np.bool_,
    "sampler_logprob": np.float32,
    "policy_logprob": np.float32,
    "entropy": np.float32,
    "version": np.int32,
}
OF_GRADING = dict.fromkeys(
    ["advantage", "weight", "old_logprob", "reference_logprob", *OF_CREDIT], np.float32
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # "12/3": the fourth rollout of round 12
        ("round", pa.int64()),
        ("task", pa.string()),
        ("group", pa.int64()),
        ("prompt", pa.string()),  # decoded, where the store was given a decoder
        ("text", pa.string()),
        ("verdict", pa.string()),  # score, abstain or failure
        ("reward", pa.float64()),
        ("parts", pa.map_(pa.string(), pa.float64())),
        ("failure", pa.string()),  # its kind: timeout, memory, crash, exception, invalid
        ("detail", pa.string()),  # why it abstained or how it failed
        ("finish", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("model_tokens", pa.int32()),
        ("mean_logprob", pa.float64()),  # this and the next two over the model's own tokens; null without any
        ("mean_entropy", pa.float64()),
        ("mean_advantage", pa.float64()),
        ("digest", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        *((name, pa.list_(pa.from_numpy_dtype(dtype))) for name, dtype in (OF_ROLLOUT | OF_GRADING).items()),
    ],
    metadata={KEY: json.dumps({"schema": SCHEMA_VERSION})},
)


def rollout_id(round: int, index: int) -> str:
    return f"{round}/{index}"


# ---- out ----


def table(round: int, records: Sequence[Graded], decode: Callable[[list[int]], str] | None) -> pa.Table:
    for index, record in enumerate(records):
        check(record, rollout_id(round, index))
    rows = [row(round, index, record, decode) for index, record in enumerate(records)]
    rollouts = [record.rollout for record in records]
    columns = {name: [row[name] for row in rows] for name in SCHEMA.names if rows and name in rows[0]}
    columns["prompt_ids"] = lists([rollout.prompt_ids for rollout in rollouts], np.int32)
    for name, dtype in OF_ROLLOUT.items():
        columns[name] = lists([getattr(rollout, name) for rollout in rollouts], dtype)
    for name, dtype in OF_GRADING.items():
        columns[name] = lists([getattr(record, name) for record in records], dtype)
    return pa.table({name: columns.get(name, []) for name in SCHEMA.names}, schema=SCHEMA)


def row(round: int, index: int, record: Graded, decode: Callable[[list[int]], str] | None) -> dict[str, Any]:
    """The columns that hold one value."""
    rollout, verdict = record.rollout, record.verdict
    by_model = rollout.by_model
    means = {"logprob": rollout.policy_logprob, "entropy": rollout.entropy, "advantage": record.advantage}
    with np.errstate(invalid="ignore"):  # a mean over inf and -inf is nan, and is kept as that
        averages = {f"mean_{name}": mean(column[by_model]) for name, column in means.items()}
    return averages | {
        "id": rollout_id(round, index),
        "round": round,
        "task": writable(rollout.task),
        "group": rollout.group,
        "prompt": writable(decode(rollout.prompt_ids.tolist())) if decode else None,
        "text": writable(rollout.text),
        "verdict": type(verdict).__name__.lower(),
        "reward": float(verdict.value) if isinstance(verdict, Score) else None,
        "parts": [(writable(k), float(v)) for k, v in getattr(verdict, "parts", {}).items()],
        "failure": verdict.kind if isinstance(verdict, Failure) else None,
        "detail": writable(getattr(verdict, "reason", "") or getattr(verdict, "detail", "")),
        "finish": rollout.finish,
        "prompt_tokens": len(rollout.prompt_ids),
        "model_tokens": int(by_model.sum()),
        "digest": rollout.digest,
    }


def mean(values: np.ndarray) -> float | None:
    return float(values.mean(dtype=np.float64)) if len(values) else None


def lists(arrays: Sequence[np.ndarray | None], dtype: Any) -> pa.ListArray:
    """A column of lists from arrays, without a Python object per number; None is null."""
    sizes = [0 if array is None else len(array) for array in arrays]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    values = np.concatenate([np.empty(0, dtype), *(array for array in arrays if array is not None)])
    missing = pa.array([array is None for array in arrays], pa.bool_())
    return pa.ListArray.from_arrays(offsets, pa.array(values), mask=missing)


def check(record: Graded, name: str) -> None:
    """A column of another length or dtype would come back as something else; refuse it here."""
    rollout, given = record.rollout, {name: getattr(record, name) for name in OF_GRADING}
    given |= {name: getattr(rollout, name) for name in OF_ROLLOUT}
    for column, dtype in (OF_ROLLOUT | OF_GRADING).items():
        array = given[column]
        if array is None and column in OF_GRADING and column != "advantage":
            continue
        if array.dtype != dtype or array.shape != (len(rollout),):
            raise ValueError(
                f"rollout {name}: {column} is {array.dtype} {array.shape}, and {np.dtype(dtype)} "
                f"({len(rollout)},) is right"
            )
    if rollout.prompt_ids.dtype != np.int32 or rollout.prompt_ids.ndim != 1:
        raise ValueError(f"rollout {name}: prompt_ids is {rollout.prompt_ids.dtype}, and int32 [P] is right")


def writable(text: str) -> str:
    """Half a surrogate pair has no place in UTF-8 and would stop the whole round; it is written as \\udxxx."""
    return text.encode("utf-8", "backslashreplace").decode()


# ---- in ----


def records_of(batch: pa.RecordBatch) -> list[Graded]:
    there = [*OF_ROLLOUT, *(name for name in OF_GRADING if name in batch.schema.names)]  # schema 1 had fewer
    tokens = {name: arrays(batch.column(name), (OF_ROLLOUT | OF_GRADING)[name]) for name in there}
    prompts = arrays(batch.column("prompt_ids"), np.int32)
    names = ["task", "group", "finish", "digest", "text", "verdict", "reward", "parts", "failure", "detail"]
    rows = batch.select(names).to_pylist(maps_as_pydicts="strict")
    return [
        Graded(
            rollout=Rollout(
                **{name: rows[i][name] for name in ("task", "group", "finish", "digest", "text")},
                prompt_ids=prompts[i],
                **{name: tokens[name][i] for name in OF_ROLLOUT},
            ),
            verdict=verdict_of(rows[i]),
            **{name: tokens[name][i] for name in OF_GRADING if name in tokens},
        )
        for i in range(len(rows))
    ]


def arrays(column: pa.ListArray, dtype: Any) -> list[Any]:
    """An array of its own for each list; None for null."""
    values = column.values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    offsets, valid = column.offsets.to_numpy(), column.is_valid().to_numpy(zero_copy_only=False)
    return [values[offsets[i] : offsets[i + 1]].copy() if valid[i] else None for i in range(len(column))]


def verdict_of(row: dict[str, Any]) -> Verdict:
    if row["verdict"] == "score":
        return Score(row["reward"], row["parts"])
    if row["verdict"] == "abstain":
        return Abstain(row["detail"])
    return Failure(row["failure"], row["detail"])
