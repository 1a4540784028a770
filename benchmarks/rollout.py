"""Rollouts: rung's engine against vLLM and transformers' generate, generated tokens per second and peak memory.

    rung bench rollout [--json] [--quick] [--runs N] [--data FILE] [--no-peers] [--device cpu|cuda] [--model NAME]

SmolLM2-135M in bf16, temperature 1, the log-prob of every sampled token reported, no stopping, on GSM8K questions:

    ragged   64 prompts x 1 answer x 64 new tokens
    groups   8 prompts x 8 answers x 256 new tokens

Each contestant is a fresh process that loads, warms up with a short pass of the same shape, and is then timed from
prompts as token ids to tokens and log-probs as Python numbers. If the mean log-prob of what they sampled differs by more
than sampling explains, they did not sample the same distribution and the benchmark fails. On a GPU the roofline is told
too: the time in which the memory could have been read that decoding must read, against the time it took.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import CHECKOUT, Measurement, fresh_process, medians, report, take_turns
from benchmarks.sft import data_file
from benchmarks.sft_contestants import PEERS_PYTHON, QUIET
from rung.errors import UserError
from rung.models.hub import load_tokenizer, resolve

WORKLOADS = {"ragged": (64, 1, 64), "groups": (8, 8, 256)}  # prompts, answers to each, new tokens of each
PEER = "vllm"  # the one that the ratios name
AGREEMENT = 0.2  # nats between mean log-probs; their standard error is near 0.04
VLLM_PYTHON = CHECKOUT / ".venv-vllm" / "bin" / "python"
HERE = Path(__file__).parent


def main(argv: list[str]) -> int:
    options = parse(argv)
    results = []
    with tempfile.TemporaryDirectory(prefix="rung-bench-") as temporary:
        for name in WORKLOADS:
            print(f"\n{describe(name, options)}", flush=True)
            turns = contestants(name, options, Path(temporary))
            results.append((name, take_turns(turns, 1 if options.quick else options.runs, say)))
    reports = {name: conclude(name, options, runs) for name, runs in results}
    worst = min(reports.values(), key=lambda one: one.get("ratio") or 0.0)
    wrong = [line for name, runs in results for line in disagreements(name, runs)]
    for name, one in reports.items():
        print_table(name, one)
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    if options.json:
        print(json.dumps(worst | {"workloads": reports}))
    return 1 if wrong else 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rung bench rollout", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--quick", action="store_true", help="one turn of each contestant")
    parser.add_argument("--runs", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--data", help="GSM8K's train.jsonl")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="measure rung alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--model", default="smollm2-135m", help="another model than the benchmark's own")
    return parser.parse_args(argv)


def describe(workload: str, options: argparse.Namespace) -> str:
    prompts, answers, tokens = WORKLOADS[workload]
    return (
        f"{workload}: {Path(options.model).name} in bf16 on {device(options)}, {prompts} GSM8K questions x "
        f"{answers} answers x {tokens} new tokens, temperature 1, log-probs of the sampled tokens"
    )


def device(options: argparse.Namespace) -> str:
    import torch

    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")


def contestants(
    workload: str, options: argparse.Namespace, folder: Path
) -> dict[str, Callable[[], Measurement]]:
    prompts, answers, tokens = WORKLOADS[workload]
    job = folder / f"{workload}.json"
    model = str(resolve(options.model))
    question_ids = prompt_ids(options, prompts)
    job.write_text(
        json.dumps(
            {
                "model": model,
                "prompts": question_ids,
                "answers": answers,
                "tokens": tokens,
                "device": device(options),
            }
        )
    )
    turns: dict[str, Callable[[], Measurement]] = {
        "rung": partial(measure, "rung", sys.executable, HERE / "rollout_rung.py", job)
    }
    if not options.peers:
        return turns
    for name, python, make in (("hf", PEERS_PYTHON, "peers"), ("vllm", VLLM_PYTHON, "peers")):
        if not python.is_file():
            raise UserError(
                f"{name} is not installed ({python} is missing); write `make {make}`, or --no-peers"
            )
        turns[name] = partial(measure, name, str(python), HERE / "peers" / f"{name}_rollout.py", job)
    return turns


def prompt_ids(options: argparse.Namespace, count: int) -> list[list[int]]:
    """The first questions as chat prompts."""
    tokenizer = load_tokenizer(options.model)
    rows = [json.loads(line) for line in data_file(options.data).read_text().splitlines()[:count]]
    chats = [[{"role": "user", "content": row["question"]}] for row in rows]
    return [tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=False) for c in chats]


def measure(name: str, python: str, script: Path, job: Path) -> Measurement:
    environment = QUIET | {"PYTHONPATH": str(CHECKOUT) if name == "rung" else ""}
    output, resident = fresh_process(name, [python, str(script), str(job)], environment)
    told = json.loads(output.splitlines()[-1])
    memory = told.pop("cuda_memory", None)
    return {
        "tokens_per_second": told["tokens"] / told["seconds"],
        "peak_memory": resident if memory is None else memory,
        **told,
    }


def conclude(
    workload: str, options: argparse.Namespace, runs: dict[str, list[Measurement]]
) -> dict[str, Any]:
    def middle(name: str) -> Measurement:
        told = {
            key: runs[name][0][key]
            for key in ("mean_logprob", "settings", "versions")
            if key in runs[name][0]
        }
        rates = ("tokens_per_second", "peak_memory", "bandwidth", "of_bandwidth")
        return medians(runs[name], [rate for rate in rates if rate in runs[name][0]]) | told

    peers = {name: middle(name) for name in runs if name != "rung"}
    return report(
        "rollout", describe(workload, options), middle("rung"), peers,
        peer=PEER if peers else None, rate="tokens_per_second", runs=runs,
    )  # fmt: skip


def disagreements(workload: str, runs: dict[str, list[Measurement]]) -> list[str]:
    ours = runs["rung"][0]
    wrong = []
    for name, measurements in runs.items():
        for one in measurements:
            if one["tokens"] != ours["tokens"]:
                wrong.append(f"{workload}: {name} made {one['tokens']} tokens, and rung {ours['tokens']}")
            if abs(one["mean_logprob"] - ours["mean_logprob"]) > AGREEMENT:
                wrong.append(
                    f"{workload}: mean log-prob of {name} is {one['mean_logprob']:.3f}, of rung {ours['mean_logprob']:.3f}"
                )
    return wrong


def say(name: str, one: Measurement) -> None:
    print(f"{name:6s} {cells(one)}", flush=True)


def cells(one: Measurement) -> str:
    speed, memory = one["tokens_per_second"], one["peak_memory"]
    reached = f"   {one['of_bandwidth']:.0%} of the bandwidth" if "of_bandwidth" in one else ""
    return f"{speed:8.0f} tokens/s {memory:6.2f} GB   mean log-prob {one['mean_logprob']:.3f}{reached}"


def print_table(workload: str, result: dict[str, Any]) -> None:
    print(f"\n{workload}, medians")
    for name, one in ({"rung": result["ours"]} | result["peers"]).items():
        print(f"{name:6s} {cells(one)}")
    for name, one in result["peers"].items():
        print(
            f"rung has {one['ratio']:.2f}x the tokens/s of {name} in {one['peak_memory_ratio']:.2f} of its peak memory"
        )
