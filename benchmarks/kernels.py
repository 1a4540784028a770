"""Time and peak memory of one training step of the language-model head: rung, plain torch and Liger.

    rung bench kernels [--json] [--quick] [--tokens N] [--runs N] [--device cpu|cuda]

The step: hidden states and a weight in bf16, mean negative log-likelihood, gradients of both. On CPU the head
is SmolLM2-135M's, on CUDA that of a 1B Llama, with Liger if it is installed. Every measurement is a
fresh process, the contestants take turns, medians count. Peak memory is what the step adds to the process (or
to the GPU) over its inputs, gradients included. Contestants must agree on the loss, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

SHAPES = {"cpu": {"tokens": 4096, "width": 576, "vocabulary": 49152},
          "cuda": {"tokens": 8192, "width": 2048, "vocabulary": 128256}}  # fmt: skip
AGREEMENT = 5e-3  # relative difference of mean losses that bf16 logits explain


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rung bench kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--tokens", type=int, help="default: 4096 on CPU, 8192 on CUDA")
    parser.add_argument("--quick", action="store_true", help="one turn of each contestant")
    parser.add_argument("--runs", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        print(json.dumps(measure(options.worker, options.device, json.loads(sys.stdin.read()))))
        return 0
    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    shape = SHAPES[device] | ({"tokens": options.tokens} if options.tokens else {})
    names = ["rung", "plain"]
    if device == "cuda" and importlib.util.find_spec("liger_kernel"):
        names.append("liger")
    runs: dict[str, list[dict]] = {name: [] for name in names}
    for turn in range(1 if options.quick else options.runs):
        for name in names:
            runs[name].append(in_fresh_process(name, device, shape))
            found = runs[name][-1]
            print(
                f"run {turn + 1}  {name:6s} {found['seconds'] * 1e3:9.1f} ms  {found['peak_memory']:7.3f} GB"
            )
    report = summary(runs, device, shape, peer=names[-1])
    print_summary(report)
    losses = {name: found[0]["loss"] for name, found in runs.items()}
    if max(losses.values()) - min(losses.values()) > AGREEMENT * max(losses.values()):
        print(f"the contestants disagree on the loss: {losses}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(report))
    return 0


def print_summary(report: dict) -> None:
    for name, row in ({"rung": report["ours"]} | report["peers"]).items():
        print(f"{name:6s} {row['tokens_per_second']:12.0f} tokens/s  {row['peak_memory']:7.3f} GB")
    print(f"{report['ratio']:.2f}x the throughput of {report['peer']}", end=", ")
    print(f"{report['peak_memory_ratio']:.3f} of its memory", end=", ")
    print(f"{report['share_of_matrix_peak']:.0%} of the bf16 matrix peak on the three products a step needs")


def in_fresh_process(name: str, device: str, shape: dict) -> dict:
    command = [sys.executable, str(Path(__file__)), "--worker", name, "--device", device]
    done = subprocess.run(command, input=json.dumps(shape), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: dict[str, list[dict]], device: str, shape: dict, peer: str) -> dict:
    import torch

    from benchmarks.harness import medians, report
    from rung.machine import matrix_peak

    def row(name: str) -> dict:
        middle = medians(runs[name], ("seconds", "peak_memory"))
        return middle | {"tokens_per_second": shape["tokens"] / middle["seconds"]}

    ours, peers = row("rung"), {name: row(name) for name in runs if name != "rung"}
    products = 3 * 2 * shape["tokens"] * shape["width"] * shape["vocabulary"]
    sizes = ", ".join(f"{size} {axis}" for axis, size in shape.items())
    return report(
        "kernels",
        f"linear_logprob, mean NLL and gradients, bf16 on {device}: {sizes}",
        ours,
        peers,
        peer=peer,
        rate="tokens_per_second",
        runs=runs,
        share_of_matrix_peak=products / ours["seconds"] / matrix_peak(torch.bfloat16, device),
    )


def measure(name: str, device: str, shape: dict) -> dict:
    """One contestant in this process: a warm-up step that also shows the peak memory, then timed steps."""
    import torch

    torch.manual_seed(0)
    hidden = torch.randn(shape["tokens"], shape["width"]).to(device, torch.bfloat16).requires_grad_()
    weight = (
        torch.randn(shape["vocabulary"], shape["width"])
        .mul_(0.05)
        .to(device, torch.bfloat16)
        .requires_grad_()
    )
    targets = torch.randint(shape["vocabulary"], (shape["tokens"],)).to(device)
    step = STEPS[name]()

    def run() -> float:
        hidden.grad = weight.grad = None
        loss = step(hidden, weight, targets)
        loss.backward()
        return loss.item()  # waits for the device

    before = memory_now(device)
    loss = run()
    peak = memory_peak(device) - before
    times = []
    for _ in range(2 if device == "cpu" else 10):
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return {"seconds": statistics.median(times), "peak_memory": peak / 1e9, "loss": loss}


def rung_step():
    import torch

    from rung.kernels.linear_logprob import linear_logprob

    def step(hidden, weight, targets):
        guess_N = torch.ones(len(targets), device=targets.device)
        return -linear_logprob(hidden, weight, targets, guess_N=guess_N).logprob_N.mean()

    return step


def plain_step():
    from torch.nn.functional import cross_entropy

    return lambda hidden, weight, targets: cross_entropy((hidden @ weight.t()).float(), targets)


def liger_step():
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    fused = LigerFusedLinearCrossEntropyLoss()
    return lambda hidden, weight, targets: fused(weight, hidden, targets)


STEPS = {"rung": rung_step, "plain": plain_step, "liger": liger_step}


def memory_now(device: str) -> int:
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    import psutil

    return psutil.Process().memory_info().rss


def memory_peak(device: str) -> int:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main(sys.argv[1:]))
