"""Direct preference optimisation: rung against TRL's DPOTrainer, pairs per second and peak memory.

    rung bench dpo [--json] [--quick] [--runs N] [--steps N] [--data FILE] [--no-peers] [--device cpu|cuda] [--model NAME]

SmolLM2-135M on real HH-RLHF pairs of up to 512 tokens, full fine-tuning in bf16, 8 pairs a step, beta 0.1. Every
contestant trains the same token ids in the same steps from the same weights with the same learning rate. The
reference counts: rung's and TRL's precomputed log-probs are charged to the pairs they were computed for. The first
step of each run is warm-up. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import CHECKOUT, Measurement, fresh_process, medians, report, take_turns
from benchmarks.sft_contestants import BETAS, PEERS_PYTHON, QUIET
from rung.batch import Pair
from rung.data.examples import load_pairs
from rung.data.files import read_rows
from rung.data.mixture import epoch_order
from rung.errors import UserError
from rung.models.folder import read_config, read_generation_config
from rung.models.hub import load_tokenizer, resolve

DATA = CHECKOUT.parent / "shared" / "data" / "hh-harmless" / "pairs.jsonl"
PAIRS, LENGTH, LEARNING_RATE = 8, 512, 1e-6
FIRST, LATER = 2e-3, 2e-2  # how far a loss may be from ln 2 in the first step, from rung's in later ones


@dataclass(frozen=True)
class Work:
    model: str  # a folder
    device: str
    steps: int  # the first of them is warm-up
    length: int  # longest side of a pair, in tokens
    file: str  # what `rung dpo` reads
    prompts: list[list[int]]  # the same pairs in the order in which they are trained
    chosen: list[list[int]]
    rejected: list[list[int]]

    def trained(self, step: int) -> int:
        here = slice(step * PAIRS, (step + 1) * PAIRS)
        return sum(map(len, self.chosen[here] + self.rejected[here]))


def main(argv: list[str]) -> int:
    options = parse(argv)
    with tempfile.TemporaryDirectory(prefix="rung-bench-") as temporary:
        folder = Path(temporary)
        work = prepare(options, folder)
        turns = contestants(work, folder, peers=options.peers)
        print(describe(work), flush=True)
        runs = take_turns(turns, 1 if options.quick else options.runs, say)
    result = conclude(work, runs)
    print_table(result)
    wrong = disagreements(runs, work)
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    if options.json:
        print(json.dumps(result))
    return 1 if wrong else 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rung bench dpo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--quick", action="store_true", help="one turn of each contestant")
    parser.add_argument("--runs", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of a run, the warm-up included")
    parser.add_argument("--data", help="rows with chosen and rejected: HH-RLHF's")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="measure rung alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="smollm2-135m", help="another model than the benchmark's own")
    options = parser.parse_args(argv)
    if options.steps < 2:
        raise UserError(f"--steps is {options.steps}, and the first is warm-up; write 2 or more")
    return options


# ---- the same work ----


def prepare(options: argparse.Namespace, folder: Path) -> Work:
    """Some pairs that fit, at random; written down such that the shuffle of `rung dpo` deals them out in this order."""
    data = Path(options.data) if options.data else DATA
    if not data.is_file():
        raise UserError(f"there is no file {data}; give rows with chosen and rejected with --data FILE")
    needed = PAIRS * options.steps
    length = min(LENGTH, read_config(resolve(options.model)).get("max_position_embeddings", LENGTH))
    rows = [row for row, _ in read_rows(str(data))]
    order = np.random.default_rng(0).permutation(len(rows))
    drawn = [rows[i] for i in order[: 4 * needed]]  # more than needed, for some are too long
    fitting = read(write(folder / "drawn.jsonl", drawn), options.model, length)
    if len(fitting) < needed:
        raise UserError(
            f"{len(fitting)} pairs drawn from {data} have at most {length} tokens a side, and {options.steps} steps "
            f"need {needed}; give a file with more short rows, or fewer --steps"
        )
    placed: list[Any] = [None] * needed
    places = epoch_order([needed], None, seed=0, epoch=0)
    for place, pair in zip(places, fitting, strict=False):
        placed[place] = drawn[int(pair.chosen.origin.rpartition(":")[2]) - 1]
    file = write(folder / "pairs.jsonl", placed)
    again = read(file, options.model, length)
    pairs = [again[place] for place in places]
    ids = [(pair.chosen.token_ids.tolist(), pair.rejected.token_ids.tolist()) for pair in pairs]
    assert ids == [(p.chosen.token_ids.tolist(), p.rejected.token_ids.tolist()) for p in fitting[:needed]]
    parts = [split(pair) for pair in pairs]
    prompts, chosen, rejected = (list(part) for part in zip(*parts, strict=True))
    return Work(
        str(resolve(options.model)),
        options.device,
        options.steps,
        length,
        str(file),
        prompts,
        chosen,
        rejected,
    )


def write(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(file: Path, model: str, length: int) -> list[Pair]:
    config = read_generation_config(resolve(model)) or None
    return load_pairs([str(file)], load_tokenizer(model), max_length=length, generation_config=config).pairs


def split(pair: Pair) -> tuple[list[int], list[int], list[int]]:
    """Prompt and both answers as TRL wants them: what follows an answer's last trained token is left out."""
    start = int(pair.chosen.trained.argmax())
    answers = []
    for side in (pair.chosen, pair.rejected):
        end = len(side) - int(side.trained[::-1].argmax())
        assert side.trained[start:end].all()
        answers.append(side.token_ids[start:end].tolist())
    return pair.chosen.token_ids[:start].tolist(), answers[0], answers[1]


# ---- contestants ----


def contestants(work: Work, folder: Path, *, peers: bool) -> dict[str, Callable[[], Measurement]]:
    """rung as `rung dpo` runs; TRL in the settings that may be its fastest, and as it comes."""
    ours: dict[str, Callable[[], Measurement]] = {"rung": partial(measure_rung, work, folder)}
    if not peers:
        return ours
    if not PEERS_PYTHON.is_file():
        raise UserError(
            f"the peers are not installed ({PEERS_PYTHON} is missing); write `make peers`, or --no-peers"
        )
    trl = partial(measure_trl, work, folder)
    return ours | {
        "trl-precomputed": partial(trl, pairs_at_once=1, recompute=False, precompute=True),
        "trl-pairwise": partial(trl, pairs_at_once=1, recompute=False, precompute=False),
        "trl-whole-step": partial(trl, pairs_at_once=PAIRS, recompute=False, precompute=False),
        "trl-default": partial(trl, pairs_at_once=PAIRS, recompute=None, precompute=False),
    }


def measure_rung(work: Work, folder: Path) -> Measurement:
    """`rung dpo` as a user would call it; what is not named here keeps its default. Its cache is empty."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        words = [
            *("dpo", "--model", work.model, "--device", work.device, "--data", work.file),
            *("--out", str(Path(temporary) / "run"), "--max-length", str(work.length)),
            *("--steps", str(work.steps), "--step-pairs", str(PAIRS), "--precision", "bf16"),
            *("--optimizer.learning-rate", str(LEARNING_RATE), "--optimizer.betas", *map(str, BETAS)),
            *("--optimizer.schedule", "constant", "--optimizer.warmup", "0"),
        ]
        file = Path(temporary) / "job.json"
        file.write_text(json.dumps(words))
        command = [sys.executable, str(CHECKOUT / "benchmarks" / "dpo_rung.py"), str(file)]
        paths = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
        quiet = QUIET | {"RUNG_CACHE": str(Path(temporary) / "cache"), "PYTHONPATH": paths}
        output, resident = fresh_process("rung dpo", command, quiet)
    return measured(work, json.loads(output.splitlines()[-1]), resident)


def measure_trl(
    work: Work, folder: Path, *, pairs_at_once: int, recompute: bool | None, precompute: bool
) -> Measurement:
    """DPOTrainer in the peers' environment; `recompute` None is TRL's default."""
    job = asdict(work) | {
        "pairs_per_step": PAIRS,
        "pairs_at_once": pairs_at_once,
        "recompute": recompute,
        "precompute": precompute,
        "learning_rate": LEARNING_RATE,
        "betas": BETAS,
    }
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    command = [str(PEERS_PYTHON), str(CHECKOUT / "benchmarks" / "peers" / "trl_dpo.py"), str(file)]
    output, resident = fresh_process("TRL", command, QUIET | {"HF_DATASETS_CACHE": str(folder / "datasets")})
    return measured(work, json.loads(output.splitlines()[-1]), resident)


def measured(work: Work, told: dict[str, Any], resident: float) -> Measurement:
    memory = told.pop("cuda_memory")
    rate = pairs_per_second(work.steps, told["seconds"], told["reference_seconds"])
    return {"pairs_per_second": rate, "peak_memory": resident if memory is None else memory, **told}


def pairs_per_second(steps: int, seconds: list[float], reference_seconds: float) -> float:
    """Pairs of the steps after the first over their time and their share of a reference computed beforehand."""
    return PAIRS * (steps - 1) / (sum(seconds) + reference_seconds * (steps - 1) / steps)


# ---- what comes out ----


def describe(work: Work) -> str:
    return (
        f"DPO of {Path(work.model).name} in bf16 on {work.device}: real pairs of up to {work.length} tokens a side, "
        f"{PAIRS} pairs a step, {work.steps - 1} steps after 1 of warm-up, the reference counted"
    )


def conclude(work: Work, runs: dict[str, list[Measurement]]) -> dict[str, Any]:
    """The report. The named peer is the fastest of TRL's settings in these very runs."""

    def middle(name: str) -> Measurement:
        told = {key: runs[name][0][key] for key in ("losses", "settings", "versions") if key in runs[name][0]}
        return medians(runs[name], ("pairs_per_second", "peak_memory", "reference_seconds")) | told

    peers = {name: middle(name) for name in runs if name != "rung"}
    fastest = max(peers, key=lambda name: peers[name]["pairs_per_second"], default=None)
    trained = [work.trained(step) for step in range(work.steps)]
    return report(
        "dpo", describe(work), middle("rung"), peers,
        peer=fastest, rate="pairs_per_second", runs=runs, trained_tokens_per_step=trained,
    )  # fmt: skip


def disagreements(runs: dict[str, list[Measurement]], work: Work) -> list[str]:
    """Why the contestants did not do the same work, if they did not."""
    planned = [work.trained(step) for step in range(work.steps)]
    ours = [
        statistics.median(column) for column in zip(*(one["losses"] for one in runs["rung"]), strict=True)
    ]
    wrong = []
    for name, measurements in runs.items():
        for one in measurements:
            if one["trained"] != planned:
                wrong.append(
                    f"{name} trained {one['trained']} tokens in its steps, and {planned} were dealt out"
                )
            if abs(one["losses"][0] - math.log(2)) > FIRST:
                wrong.append(f"{name} has loss {one['losses'][0]:.4f} in the first step, and ln 2 is right")
            for step, (found, loss) in enumerate(zip(one["losses"], ours, strict=True)):
                if step and abs(found - loss) > LATER:
                    wrong.append(f"{name} has loss {found:.4f} in step {step + 1}, and rung {loss:.4f}")
    return wrong


def say(name: str, one: Measurement) -> None:
    print(f"{name:15s} {cells(one)}", flush=True)


def cells(one: Measurement) -> str:
    losses = " ".join(f"{loss:.4f}" for loss in one["losses"][:6])
    return f"{one['pairs_per_second']:8.3f} pairs/s {one['peak_memory']:8.2f} GB   losses {losses}"


def print_table(result: dict[str, Any]) -> None:
    print("\nmedians")
    for name, one in ({"rung": result["ours"]} | result["peers"]).items():
        print(f"{name:15s} {cells(one)}")
    for name, one in result["peers"].items():
        print(
            f"rung has {one['ratio']:.2f}x the pairs/s of {name} in {one['peak_memory_ratio']:.2f} of its peak memory"
        )
