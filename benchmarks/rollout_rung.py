"""rung's engine on a rollout job; started by rollout.py. Prints one JSON object last."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rung.machine import share_cores


def step_bytes(parameters: float, per_token: float, prompts: list[int], answers: int, tokens: int) -> float:
    """What decoding must read at least: the parameters once a step, and each row's keys and values so far.

    In bytes; `per_token` are those of one token's keys and values in all layers, `prompts` are lengths in tokens.
    """
    history = sum(answers * (length * tokens + tokens * (tokens - 1) / 2) for length in prompts)
    return parameters * tokens + per_token * history


def bandwidth() -> float:
    """Bytes a second that this GPU moves in a copy, the best of ten."""
    import torch

    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = max(best, 2 * len(source) / (time.perf_counter() - began))
    return best


def run(job: dict) -> dict:
    share_cores()
    import torch

    from rung.models.decoder import Decoder
    from rung.models.load import load_model
    from rung.rollouts.engine import Engine
    from rung.rollouts.request import Sampling

    device = torch.device(job["device"])
    model = load_model(job["model"], torch.bfloat16, device)
    assert isinstance(model, Decoder)
    engine = Engine(model)
    engine.generate(job["prompts"], Sampling(8, seed=1), n=job["answers"])  # warm-up
    engine.refresh(1)  # nothing cached helps the timed pass
    began = time.perf_counter()
    groups = engine.generate(job["prompts"], Sampling(job["tokens"], seed=2), n=job["answers"])
    seconds = time.perf_counter() - began
    roofline: dict = {}
    if device.type == "cuda":
        config, weights = engine.model.config, engine.model.parameters()
        least = step_bytes(
            sum(one.numel() * one.element_size() for one in weights),
            2 * 2 * config.layers * config.kv_heads * config.head_width,
            [len(prompt) for prompt in job["prompts"]],
            job["answers"],
            job["tokens"],
        )
        memory, speed = torch.cuda.max_memory_allocated() / 1e9, bandwidth()
        roofline = {"cuda_memory": memory, "bandwidth": speed, "of_bandwidth": least / speed / seconds}
    logprobs = [value for group in groups for answer in group for value in answer.sampler_logprob]
    return {
        "tokens": len(logprobs),
        "seconds": seconds,
        "mean_logprob": sum(logprobs) / len(logprobs),
        **roofline,
        "versions": {"torch": torch.__version__},
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
