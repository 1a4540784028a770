"""The code for GPUs on a GPU that is not there (gpu.py): nothing mixes devices, and nothing computes anything else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

GPU = Path(__file__).with_name("gpu.py")
TESTS = GPU.parents[1]
REWARD = TESTS.parent / "benchmarks" / "grpo_reward.py"
FAMILIES = (
    "llama yarn",
    "qwen2 window",
    "smollm3 window",
    "gemma2 hard caps",
    "gemma3_text pattern",
    "qwen3_moe",
)
REFUSALS = """
import sys
import gpu, torch
gpu.install()
one, index = torch.arange(4.0), torch.tensor([0, 2])
with gpu.GPU():
    there = one.to("cuda")
    assert there.is_cuda and (there + 1).is_cuda and not there.cpu().is_cuda
    assert (there * torch.tensor(2.0))[index].tolist() == [0.0, 4.0] and there.sum().item() == 6.0
    for wrong in (lambda: there + one, lambda: one[index.to("cuda")], lambda: there.copy_(one) @ one, there.numpy):
        try:
            wrong()
        except gpu.Refused:
            continue
        sys.exit("was not refused")
    gpu.record(lambda: there * 2)
    for wrong in (there.sum().item, there.cpu, lambda: one.to("cuda"), lambda: there[index], lambda: there[there > 1]):
        wrong()
        try:
            gpu.record(wrong)
        except gpu.Refused:
            continue
        sys.exit("was recorded")
"""
DECODING = """
import sys, tempfile
from pathlib import Path
import gpu, torch
gpu.install()
from transformers.utils import logging
from decoder_case import opened, reference
from engine_case import prompts, texts
import rung.rollouts.pages as pages
from rung.rollouts.engine import Engine
from rung.rollouts.request import Sampling
pages.PAGE = 4
logging.disable_progress_bar()
plain = Sampling(max_tokens=12, temperature=1.0)
cut = Sampling(max_tokens=5, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.1, logit_bias=((5, 1.0),), top_logprobs=3)
for case in sys.argv[2:]:
    model = opened(reference(case), Path(tempfile.mkdtemp()))
    here = [texts(Engine(model, slots=5, paged=True).generate(prompts(), sampling)) for sampling in (plain, cut)]
    with gpu.GPU():
        engine = Engine(model.to("cuda"), slots=5)
        assert engine.paged and engine.record == (model.config.experts[-1] is None)
        there = [texts(engine.generate(prompts(), sampling)) for sampling in (plain, cut)]
        assert not engine.record or len(engine.graphs.steps) > 2
    assert here == there, case
"""
ATTENTION = """
import gpu, torch
gpu.install()
from rung.kernels.attention import packed_attention
torch.manual_seed(0)
inputs = [torch.randn(30, heads, 16).bfloat16() for heads in (6, 2, 2, 6)]
for parents in ((), (-1, 0, 0)):
    for window in (None, 5):
        found = []
        for where in ("cpu", "cuda"):
            with gpu.GPU():
                *qkv, grad = (x.clone().to(where) for x in inputs)
                out = packed_attention(*(x.requires_grad_() for x in qkv), (12, 7, 11), parents, scale=0.3, window=window)
                found.append([x.detach().float().cpu() for x in (out, *torch.autograd.grad(out, qkv, grad))])
        for here, there in zip(*found, strict=True):
            torch.testing.assert_close(here, there, rtol=0.03, atol=0.03)
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory) -> Path:
    if torch.backends.cuda.is_built():
        pytest.skip("this PyTorch has a device of that name itself")
    if sys.platform != "linux" or shutil.which("c++") is None:
        pytest.skip("the device is compiled, and there is no compiler")
    parts, file = Path(torch.__file__).parent, tmp_path_factory.mktemp("device") / "device.so"
    build = ["c++", "-std=c++20", "-fPIC", "-shared", str(GPU.with_name("device.cpp")), "-o", str(file)]
    subprocess.run(
        [*build, f"-I{parts / 'include'}", f"-L{parts / 'lib'}", "-lc10", "-ltorch_cpu"], check=True
    )
    return file


def run_there(device: Path, *words: str) -> None:
    path = os.pathsep.join(str(TESTS / folder) for folder in ("", "emulation", "models", "rollouts"))
    path += os.pathsep + str(TESTS.parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_cuda_refuses_is_refused(device):
    run_there(device, "-c", REFUSALS, str(device))


def test_flash_attention_is_asked_for_what_the_cpu_computes(device):
    run_there(device, "-c", ATTENTION, str(device))


def test_recorded_steps_sample_what_the_cpu_samples(device):
    run_there(device, "-c", DECODING, str(device), *FAMILIES)


def steps(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_runs_are_those_of_the_cpu(device, tiny_folder, rows_file, tmp_path):
    """In float32 with the same numbers; in half precision, where attention is another kernel, near them."""
    from rung.cli import status

    tasks, pairs = tmp_path / "tasks.jsonl", tmp_path / "pairs.jsonl"
    tasks.write_text("".join(json.dumps({"prompt": f"say {i}", "answer": "a"}) + "\n" for i in range(12)))
    sides = [{"prompt": f"say {i}", "chosen": "xy" * (i % 2 + 1), "rejected": "no"} for i in range(8)]
    pairs.write_text("".join(json.dumps(pair) + "\n" for pair in sides))
    rl = [
        *("rl", "--env", f"rows:{tasks}?reward=exact", "--reward", f"{REWARD}:letters"),
        *("--rounds", "2", "--prompts", "2", "--group", "4", "--max-tokens", "8", "--test-tasks", "2"),
    ]
    commands = {
        "sft": ["sft", "--data", str(rows_file), "--steps", "2"],
        "sft bf16": ["sft", "--data", str(rows_file), "--steps", "2", "--precision", "bf16"],
        "dpo": ["dpo", "--data", str(pairs), "--steps", "2"],
        "reward": ["reward", "--data", str(pairs), "--steps", "2"],
        "grpo": [*rl, "--updates", "2", "--loss.beta", "0.1", "--loss.entropy-bonus", "0.01"],
        "grpo bf16": [*rl, "--precision", "bf16", "--lora.rank", "4"],
        "stale": [*rl, "--staleness", "1"],
        "muon": [*rl, "--optimizer.name", "muon", "--method", "remax"],
    }
    lines = []
    for name, words in commands.items():
        words += ["--model", str(tiny_folder), "--max-length", "128"]
        words += [] if "--precision" in words else ["--precision", "fp32"]
        assert status([*words, "--device", "cpu", "--out", str(tmp_path / name / "here")]) == 0
        lines.append(json.dumps([*words, "--device", "cuda", "--out", str(tmp_path / name / "there")]))
    (tmp_path / "commands").write_text("\n".join(lines))
    run_there(device, str(GPU), str(device), str(tmp_path / "commands"))
    for name in commands:
        here, there = steps(tmp_path / name / "here"), steps(tmp_path / name / "there")
        assert len(here) == len(there) == (4 if name == "grpo" else 2)
        for one, other in zip(here, there, strict=True):
            share = 0.05 if "bf16" in name else 1e-4
            for key in {"loss", "grad_norm", "reward", "trained_tokens", "heldout_score"} & one.keys():
                assert one[key] == pytest.approx(other[key], rel=share, abs=share / 10), (name, key)
