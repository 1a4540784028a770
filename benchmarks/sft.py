"""Supervised fine-tuning: rung against TRL's SFTTrainer, tokens per second and peak memory.

    rung bench sft [--json] [--quick] [--runs N] [--steps N] [--data FILE] [--trained all|answers]
                   [--no-peers] [--device cpu|cuda] [--model NAME]

SmolLM2-135M on real GSM8K rows packed to 512, full fine-tuning in bf16, an optimizer step of 8 packed rows
(up to 4,096 tokens). Every contestant trains the same documents in the same steps from the same weights with
the same learning rate; if their first losses or token counts differ, the benchmark fails. On CUDA the model
is a random one of Llama-3.2-1B's shape and a step 8 rows of 4,096. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import CHECKOUT, Measurement, medians, report, take_turns
from benchmarks.packed_rows import PackedRows, prepare
from benchmarks.sft_contestants import Work, contestants, matrix_peak
from rung.errors import UserError

DATA = CHECKOUT.parent / "shared" / "data" / "gsm8k" / "train.jsonl"
PEER = "trl"  # the one that the ratios name
AGREEMENT = 5e-3  # relative difference of first losses that bf16 arithmetic explains


def main(argv: list[str]) -> int:
    options = parse(argv)
    with tempfile.TemporaryDirectory(prefix="rung-bench-") as temporary:
        folder = Path(temporary)
        data = data_file(options.data)
        work = work_for(options, folder)
        rows = prepare(
            data, folder, model=work.model, length=work.length,
            rows_per_step=work.rows_per_step, steps=work.steps, trained=work.trained,
        )  # fmt: skip
        turns = contestants(work, rows, folder, peers=options.peers)
        turns = {"matrix peak": partial(matrix_peak, work.device), **turns}
        print(describe(work), flush=True)
        runs = take_turns(turns, 1 if options.quick else options.runs, say)
        # A peak is what the machine can do undisturbed, so the best of the turns counts.
        peak = max(one["flops_per_second"] for one in runs.pop("matrix peak"))
        result = conclude(work, rows, runs, peak)
    print_table(result)
    wrong = disagreements(runs, rows)
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    if options.json:
        print(json.dumps(result))
    return 1 if wrong else 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rung bench sft", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--quick", action="store_true", help="one turn of each contestant")
    parser.add_argument("--runs", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run, warm-up included")
    parser.add_argument("--data", help="GSM8K's train.jsonl")
    parser.add_argument("--trained", choices=("all", "answers"), default="all")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="measure rung alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--model", help="another model than the benchmark's own")
    return parser.parse_args(argv)


def data_file(given: str | None) -> Path:
    file = Path(given) if given else DATA
    if not file.is_file():
        raise UserError(
            f"there is no file {file}; give GSM8K's training rows (JSONL, question and answer) with "
            "--data FILE"
        )
    return file


def work_for(options: argparse.Namespace, folder: Path) -> Work:
    import torch

    cuda = options.device == "cuda" or (options.device is None and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise UserError("--device cuda was asked for, but this torch sees no GPU; write --device cpu")
    steps, warm_up = options.steps or (12 if cuda else 4), 3 if cuda else 1
    if steps <= warm_up:
        raise UserError(
            f"--steps is {steps}, and the first {warm_up} of a run are warm-up; write {warm_up + 1} or more"
        )
    if not cuda:
        return Work(options.model or "smollm2-135m", "cpu", 512, 8, 1, steps, warm_up, options.trained)
    from benchmarks.random_model import write_random_llama

    model = options.model or write_random_llama(folder / "llama-1b-random")
    return Work(model, "cuda", 4096, 8, 1, steps, warm_up, options.trained)


def describe(work: Work) -> str:
    return (
        f"SFT of {Path(work.model).name} in bf16 on {work.device}: GSM8K rows packed to {work.length}, "
        f"{'every token' if work.trained == 'all' else 'answers'} trained, "
        f"steps of {work.rows_per_step} packed rows, "
        f"{work.steps - work.warm_up} steps after {work.warm_up} of warm-up"
    )


def conclude(work: Work, rows: PackedRows, runs: dict[str, list[Measurement]], peak: float) -> dict[str, Any]:
    """The report: medians over the turns, and the share of the matrix peak (on a GPU: the MFU)."""
    flops = flops_per_token(work, rows)

    def middle(name: str) -> Measurement:
        found = medians(runs[name], ("tokens_per_second", "peak_memory"))
        told = {key: runs[name][0][key] for key in ("losses", "settings", "versions") if key in runs[name][0]}
        return found | {"share_of_matrix_peak": found["tokens_per_second"] * flops / peak} | told

    peers = {name: middle(name) for name in runs if name != "rung"}
    steps = range(work.steps)
    return report(
        "sft",
        describe(work),
        middle("rung"),
        peers,
        peer=PEER if peers else None,
        rate="tokens_per_second",
        runs=runs,
        matrix_peak=peak,
        flops_per_token=flops,
        tokens_per_step=[rows.tokens(step) for step in steps],
        targets_per_step=[rows.targets(step) for step in steps],
    )


def flops_per_token(work: Work, rows: PackedRows) -> float:
    """Useful arithmetic of the measured steps: recomputation and untrained logits are none."""
    from rung.models.config import DecoderConfig
    from rung.models.flops import training_flops
    from rung.models.folder import read_config
    from rung.models.hub import resolve

    steps = range(work.warm_up, work.steps)
    tokens, targets = sum(map(rows.tokens, steps)), sum(map(rows.targets, steps))
    lengths = [len(document) for step in steps for document in rows.documents(step)]
    context = sum(length**2 for length in lengths) / tokens
    config = DecoderConfig.from_hf(read_config(resolve(work.model)))
    return training_flops(config, tokens, targets, context) / tokens


def disagreements(runs: dict[str, list[Measurement]], rows: PackedRows) -> list[str]:
    """Why the contestants did not do the same work, if they did not."""
    planned = [rows.tokens(step) for step in range(len(rows.steps))]
    targets = [rows.targets(step) for step in range(len(rows.steps))]
    ours = statistics.median(one["losses"][0] for one in runs["rung"])
    wrong = []
    for name, measurements in runs.items():
        for one in measurements:
            if one["tokens"] != planned:
                wrong.append(f"{name} read {one['tokens']} tokens in its steps, and {planned} were dealt out")
            if one.get("targets", targets) != targets:
                wrong.append(f"{name} trained {one['targets']} tokens, and {targets} were to be trained")
            if abs(one["losses"][0] - ours) > AGREEMENT * ours:
                wrong.append(f"{name} has loss {one['losses'][0]:.4f} in the first step, and rung {ours:.4f}")
    return wrong


def say(name: str, one: Measurement) -> None:
    speed = f"{one['flops_per_second'] / 1e9:10.0f} GFLOP/s" if "flops_per_second" in one else cells(one)
    print(f"{name:15s} {speed}", flush=True)


def cells(one: Measurement) -> str:
    losses = " ".join(f"{loss:.4f}" for loss in one["losses"][:6])
    return f"{one['tokens_per_second']:10.1f} tokens/s {one['peak_memory']:8.2f} GB   losses {losses}"


def print_table(result: dict[str, Any]) -> None:
    print("\nmedians")
    for name, one in ({"rung": result["ours"]} | result["peers"]).items():
        print(f"{name:15s} {cells(one)}   {one['share_of_matrix_peak']:.1%} of the bf16 matrix peak")
    for name, one in result["peers"].items():
        print(f"rung has {one['ratio']:.2f}x the tokens/s of {name}", end="")
        print(f" in {one['peak_memory_ratio']:.2f} of its peak memory")
