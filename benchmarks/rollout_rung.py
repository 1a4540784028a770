"""rung's engine on a rollout job; started by rollout.py. Prints one JSON object last."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rung.machine import share_cores


def run(job: dict) -> dict:
    share_cores()
    import torch

    from rung.models.load import load_model
    from rung.rollouts.engine import Engine
    from rung.rollouts.request import Sampling

    device = torch.device(job["device"])
    engine = Engine(load_model(job["model"], torch.bfloat16, device))
    engine.generate(job["prompts"], Sampling(8, seed=1), n=job["answers"])  # warm-up
    engine.refresh(1)  # nothing cached helps the timed pass
    began = time.perf_counter()
    groups = engine.generate(job["prompts"], Sampling(job["tokens"], seed=2), n=job["answers"])
    seconds = time.perf_counter() - began
    logprobs = [value for group in groups for answer in group for value in answer.sampler_logprob]
    return {
        "tokens": len(logprobs),
        "seconds": seconds,
        "mean_logprob": sum(logprobs) / len(logprobs),
        "cuda_memory": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
        "versions": {"torch": torch.__version__},
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
