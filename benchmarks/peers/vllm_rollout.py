"""vLLM on a rollout job; runs in .venv-vllm, started by rollout.py. One JSON object last."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GB; both workloads fit several times
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process, so that its memory can be counted


def run(job: dict) -> dict:
    import torch
    import vllm
    from vllm import LLM, SamplingParams

    model = LLM(job["model"], dtype="bfloat16", max_model_len=1024, max_num_seqs=64, seed=0)
    prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]

    def sample(tokens: int):
        parameters = SamplingParams(
            n=job["answers"],
            temperature=1.0,
            max_tokens=tokens,
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
        )
        return model.generate(prompts, parameters, use_tqdm=False)

    sample(8)  # warm-up
    model.reset_prefix_cache()
    began = time.perf_counter()
    found = sample(job["tokens"])
    logprobs = [
        entry[token].logprob
        for request in found
        for answer in request.outputs
        for entry, token in zip(answer.logprobs, answer.token_ids, strict=True)
    ]
    seconds = time.perf_counter() - began
    return {
        "tokens": len(logprobs),
        "seconds": seconds,
        "mean_logprob": sum(logprobs) / len(logprobs),
        "cuda_memory": torch.cuda.max_memory_allocated() / 1e9 if job["device"] == "cuda" else None,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "versions": {"torch": torch.__version__, "vllm": vllm.__version__},
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
