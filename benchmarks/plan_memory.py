"""Peak memory of real runs, which `rung pipeline plan` must foretell: `python benchmarks/plan_memory.py [NAME ...]`.

Each case is a command of a few steps in a process of its own; its peak is the largest resident set that the kernel
counted, saving included. The tests hold rung/pipelines/plan.py to the result, benchmarks/results/plan-memory-*.json.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from rung.machine import machine_summary

RESULTS = Path(__file__).parent / "results" / "plan-memory-cpu-2core.json"
MODEL = "smollm2-135m"
WORDS = (
    "the",
    "a",
    "of",
    "one",
    "two",
    "day",
    "night",
    "sea",
    "hill",
    "stone",
    "walks",
    "sings",
    "under",
    "old",
    "new",
)

CASES: dict[str, list[str]] = {
    "sft": ["sft", "--data", "ROWS", "--steps", "2"],
    "dpo": ["dpo", "--data", "PAIRS", "--steps", "2", "--step-pairs", "6"],
    "grpo": ["grpo", "--env", "arithmetic", "--rounds", "2", "--prompts", "2", "--group", "8", "--max-tokens", "48",
             "--min-tokens", "48", "--test-tasks", "4"],
    "sft-lora": ["sft", "--data", "ROWS", "--steps", "2", "--step-tokens", "2048", "--micro-tokens", "2048",
                 "--lora.rank", "16"],
    "sft-fp32": ["sft", "--data", "ROWS", "--steps", "2", "--step-tokens", "512", "--micro-tokens", "512",
                 "--precision", "fp32"],
    "grpo-reference": ["grpo", "--env", "arithmetic", "--rounds", "2", "--prompts", "2", "--group", "4", "--max-tokens",
                       "32", "--loss.beta", "0.04", "--test-tasks", "4"],
    "sft-4096-recompute": ["sft", "--data", "ROWS", "--steps", "2", "--micro-tokens", "4096", "--recompute"],
    "sft-4096": ["sft", "--data", "ROWS", "--steps", "2", "--micro-tokens", "4096"],
    "dpo-4096": ["dpo", "--data", "PAIRS", "--steps", "2", "--step-pairs", "12", "--micro-tokens", "4096"],
    "grpo-long": ["grpo", "--env", "arithmetic", "--rounds", "2", "--prompts", "2", "--group", "16", "--max-tokens", "128",
                  "--min-tokens", "128", "--micro-tokens", "4096", "--test-tasks", "4"],
}  # fmt: skip


def write_data(folder: Path) -> dict[str, str]:
    """Documents of about 250 tokens and pairs of about 120 for the prompt and each answer, the same every time."""
    dice = random.Random(0)

    def text(words: int) -> str:
        return " ".join(dice.choices(WORDS, k=words))

    rows = [{"prompt": text(100), "completion": text(140)} for _ in range(200)]
    pairs = [{"prompt": text(110), "chosen": text(110), "rejected": text(110)} for _ in range(100)]
    for name, content in (("rows", rows), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return {"ROWS": str(folder / "rows.jsonl"), "PAIRS": str(folder / "pairs.jsonl")}


def measure(argv: list[str], data: dict[str, str], folder: Path) -> float:
    words = [
        sys.executable,
        "-m",
        "rung",
        *(data.get(word, word) for word in argv),
        "--model",
        MODEL,
        "--out",
        str(folder),
    ]
    process = subprocess.Popen(words)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)} ended with {process.returncode}")
    return usage.ru_maxrss * 1024 / 1e9


def main(names: list[str]) -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cases": {}}
    with tempfile.TemporaryDirectory() as temporary:
        data = write_data(Path(temporary))
        for name in names or CASES:
            peak = measure(CASES[name], data, Path(temporary, name))
            known["cases"][name] = {"argv": [*CASES[name], "--model", MODEL], "peak_gb": round(peak, 3)}
            print(f"{name}: {peak:.2f} GB", flush=True)
            known["machine"] = machine_summary()
            RESULTS.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
