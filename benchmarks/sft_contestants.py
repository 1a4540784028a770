"""The contestants of `rung bench sft`, each measured in a fresh process: `rung sft`, and TRL's SFTTrainer."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.harness import CHECKOUT, Measurement, fresh_process
from benchmarks.packed_rows import PackedRows, Trained, as_trl_rows
from rung.errors import UserError
from rung.models.hub import resolve
from rung.run import Run

PEERS_PYTHON = CHECKOUT / ".venv-peers" / "bin" / "python"
LEARNING_RATE, BETAS = 1e-4, (0.9, 0.95)
QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}


@dataclass(frozen=True)
class Work:
    model: str
    device: str
    length: int  # of a packed row
    rows_per_step: int
    rows_at_once: int  # of a micro-batch with which the peer is fastest
    steps: int
    warm_up: int  # of them, not measured
    trained: Trained


def contestants(
    work: Work, rows: PackedRows, folder: Path, *, peers: bool
) -> dict[str, Callable[[], Measurement]]:
    """rung as `rung sft` runs; TRL in its fastest setting, with whole steps at once, and as it comes."""
    ours: dict[str, Callable[[], Measurement]] = {"rung": partial(measure_rung, work, rows, folder)}
    if not peers:
        return ours
    if not PEERS_PYTHON.is_file():
        raise UserError(
            f"the peers are not installed ({PEERS_PYTHON} is missing); write `make peers`, or --no-peers"
        )
    trl = partial(measure_trl, work, rows, folder)
    return ours | {
        "trl": partial(trl, recompute=False, rows_at_once=work.rows_at_once),
        "trl-whole-step": partial(trl, recompute=False, rows_at_once=work.rows_per_step),
        "trl-default": partial(trl, recompute=None, rows_at_once=work.rows_per_step),
    }


def measure_rung(work: Work, rows: PackedRows, folder: Path) -> Measurement:
    """`rung sft` as a user would call it; what is not named here keeps its default."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        out = Path(temporary) / "run"
        command = [
            *(sys.executable, "-m", "rung", "sft", "--model", work.model, "--device", work.device),
            *("--data", str(rows.file), "--out", str(out), "--max-length", str(work.length)),
            *("--step-tokens", str(work.length * work.rows_per_step), "--steps", str(work.steps)),
            *("--precision", "bf16", "--optimizer.learning-rate", str(LEARNING_RATE)),
            *("--optimizer.betas", *map(str, BETAS), "--optimizer.schedule", "constant"),
            *("--optimizer.warmup", "0"),
        ]
        _, resident = fresh_process("rung sft", command, QUIET)
        logged = Run.open(out).metrics()
        versions = Run.open(out).config()["versions"]
    tokens = [round(row["step_tokens"]) for row in logged]
    # From the end of one step to the end of the next: everything a user waits for, logging too.
    seconds = [after["time"] - before["time"] for before, after in pairwise(logged)]
    return {
        "tokens_per_second": speed(work, tokens, seconds),
        "peak_memory": max(row["memory"] for row in logged) if work.device == "cuda" else resident,
        "seconds": seconds,
        "tokens": tokens,
        "targets": [round(row["trained_tokens"]) for row in logged],
        "losses": [row["loss"] for row in logged],
        "versions": versions,
    }


def measure_trl(
    work: Work, rows: PackedRows, folder: Path, *, recompute: bool | None, rows_at_once: int
) -> Measurement:
    """SFTTrainer in the peers' environment; `recompute` None is TRL's default."""
    job = asdict(work) | {
        "model": str(resolve(work.model)),
        "rows": as_trl_rows(rows),
        "recompute": recompute,
        "rows_at_once": rows_at_once,
        "learning_rate": LEARNING_RATE,
        "betas": BETAS,
    }
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    command = [str(PEERS_PYTHON), str(CHECKOUT / "benchmarks" / "peers" / "trl_sft.py"), str(file)]
    one_gpu = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
    output, resident = fresh_process("TRL", command, QUIET | (one_gpu if work.device == "cuda" else {}))
    told = json.loads(output.splitlines()[-1])
    memory = told.pop("cuda_memory")
    return {
        "tokens_per_second": speed(work, told["tokens"], told["seconds"]),
        "peak_memory": resident if memory is None else memory,
        **told,
    }


def speed(work: Work, tokens: list[int], seconds: list[float]) -> float:
    """Real tokens over wall time of the steps after the warm-up; `seconds` starts with the second step."""
    return sum(tokens[work.warm_up :]) / sum(seconds[work.warm_up - 1 :])


def matrix_peak(device: str) -> Measurement:
    """What bf16 matrix products reach here and now; not a contestant, but it takes its turn."""
    code = f"import torch, rung.machine as m; print(m.matrix_peak(torch.bfloat16, {device!r}, 2.0))"
    output, _ = fresh_process("the matrix peak", [sys.executable, "-c", code])
    return {"flops_per_second": float(output)}
