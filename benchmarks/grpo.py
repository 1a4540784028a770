"""One whole step of GRPO: rung against TRL's GRPOTrainer, steps per second and peak memory.

    rung bench grpo [--json] [--quick] [--runs N] [--steps N] [--data FILE] [--no-peers] [--device cpu|cuda]

SmolLM2-135M in bf16: 8 GSM8K questions x 8 answers of exactly 64 tokens at temperature 1, a reward that costs nothing,
group-normalised credit, one strictly on-policy update of all weights, no KL. A step is everything from one update to the
next: sampling, grading, credit, forward, backward, optimizer. The first step of each run is warm-up.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.harness import CHECKOUT, Measurement, fresh_process, medians, report, take_turns
from benchmarks.sft import data_file
from benchmarks.sft_contestants import PEERS_PYTHON, QUIET
from rung.errors import UserError
from rung.models.hub import resolve
from rung.run import Run

PROMPTS, ANSWERS, TOKENS = 8, 8, 64
REWARD = CHECKOUT / "benchmarks" / "grpo_reward.py"
PEER = "trl"  # its fastest setting; the one that the ratios name


def main(argv: list[str]) -> int:
    options = parse(argv)
    work = (
        f"GRPO of {options.model} in bf16: {PROMPTS} prompts x {ANSWERS} answers x {TOKENS} tokens, one update, "
        f"{options.steps - 1} steps after 1 of warm-up"
    )
    print(work, flush=True)
    with tempfile.TemporaryDirectory(prefix="rung-bench-") as temporary:
        runs = take_turns(contestants(options, Path(temporary)), 1 if options.quick else options.runs, say)

    def middle(name: str) -> Measurement:
        told = {key: runs[name][0][key] for key in ("settings", "versions") if key in runs[name][0]}
        return medians(runs[name], ("steps_per_second", "peak_memory")) | told

    peers = {name: middle(name) for name in runs if name != "rung"}
    result = report(
        "grpo", work, middle("rung"), peers, peer=PEER if peers else None, rate="steps_per_second", runs=runs
    )
    print_table(result)
    wrong = [
        f"{name} trained {one['tokens']} tokens a step, and {PROMPTS * ANSWERS * TOKENS} are right"
        for name, measurements in runs.items()
        for one in measurements
        if set(one["tokens"]) != {PROMPTS * ANSWERS * TOKENS}
    ]
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    if options.json:
        print(json.dumps(result))
    return 1 if wrong else 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rung bench grpo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--quick", action="store_true", help="one turn of each contestant")
    parser.add_argument("--runs", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=3, help="steps of a run, the warm-up included")
    parser.add_argument("--data", help="GSM8K's train.jsonl")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="measure rung alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="smollm2-135m", help="another model than the benchmark's own")
    return parser.parse_args(argv)


def contestants(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    lines = data_file(options.data).read_text().splitlines()[: PROMPTS * options.steps]
    questions = [json.loads(line)["question"] for line in lines]
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": q, "answer": "0"}) + "\n" for q in questions))
    turns: dict[str, Any] = {"rung": partial(measure_rung, options, rows, folder)}
    if not options.peers:
        return turns
    if not PEERS_PYTHON.is_file():
        raise UserError(
            f"TRL is not installed ({PEERS_PYTHON} is missing); write `make peers`, or --no-peers"
        )
    trl = partial(measure_trl, options, questions, folder)
    at_once = PROMPTS * ANSWERS
    return turns | {
        "trl": partial(trl, rows_at_once=at_once // 8, recompute=False),
        "trl-whole-step": partial(trl, rows_at_once=at_once, recompute=False),
        "trl-default": partial(trl, rows_at_once=at_once // 8, recompute=None),
    }


def measure_rung(options: argparse.Namespace, rows: Path, folder: Path) -> Measurement:
    """`rung grpo` as a user would call it; what is not named here keeps its default."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        out = Path(temporary) / "run"
        command = [
            *(sys.executable, "-m", "rung", "grpo", "--model", options.model, "--device", options.device),
            *("--env", f"rows:{rows}?reward=exact", "--reward", f"{REWARD}:letters", "--out", str(out)),
            *("--rounds", str(options.steps), "--prompts", str(PROMPTS), "--group", str(ANSWERS)),
            *("--max-tokens", str(TOKENS), "--min-tokens", str(TOKENS), "--test-tasks", "0"),
            *("--precision", "bf16", "--optimizer.learning-rate", "1e-6"),
        ]
        _, resident = fresh_process("rung grpo", command, QUIET)
        logged = Run.open(out).metrics()
        versions = Run.open(out).config()["versions"]
    seconds = [after["time"] - before["time"] for before, after in pairwise(logged)]
    return {
        "steps_per_second": len(seconds) / sum(seconds),
        "peak_memory": max(row["memory"] for row in logged) if options.device == "cuda" else resident,
        "seconds": seconds,
        "rollout_seconds": [row["rollout_seconds"] for row in logged],
        "tokens": [round(row["trained_tokens"]) for row in logged],
        "versions": versions,
    }


def measure_trl(
    options: argparse.Namespace,
    questions: list[str],
    folder: Path,
    *,
    rows_at_once: int,
    recompute: bool | None,
) -> Measurement:
    job = {
        "model": str(resolve(options.model)), "questions": questions, "device": options.device,
        "prompts": PROMPTS, "answers": ANSWERS, "tokens": TOKENS, "steps": options.steps,
        "rows_at_once": rows_at_once, "recompute": recompute, "reward": str(REWARD),
    }  # fmt: skip
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    command = [str(PEERS_PYTHON), str(CHECKOUT / "benchmarks" / "peers" / "trl_grpo.py"), str(file)]
    output, resident = fresh_process("TRL", command, QUIET)
    told = json.loads(output.splitlines()[-1])
    memory = told.pop("cuda_memory")
    return {
        "steps_per_second": len(told["seconds"]) / sum(told["seconds"]),
        "peak_memory": resident if memory is None else memory,
        **told,
    }


def say(name: str, one: Measurement) -> None:
    print(f"{name:15s} {cells(one)}", flush=True)


def cells(one: Measurement) -> str:
    return f"{1 / one['steps_per_second']:8.1f} s a step {one['peak_memory']:8.2f} GB"


def print_table(result: dict[str, Any]) -> None:
    print("\nmedians")
    for name, one in ({"rung": result["ours"]} | result["peers"]).items():
        print(f"{name:15s} {cells(one)}")
    for name, one in result["peers"].items():
        print(
            f"rung is {one['ratio']:.2f}x as fast as {name} in {one['peak_memory_ratio']:.2f} of its peak memory"
        )
