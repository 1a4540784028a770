"""transformers' generate on a rollout job; runs in .venv-peers, started by rollout.py. One JSON object last."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.no_grad()
def run(job: dict) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16).to(job["device"]).eval()
    model.generation_config.eos_token_id = None  # answers of equal length, as for everybody
    prompts = [ids for ids in job["prompts"] for _ in range(job["answers"])]
    inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(job["device"])

    def sample(tokens: int):
        return model.generate(
            **inputs, max_new_tokens=tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            pad_token_id=0, return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip

    sample(8)  # warm-up
    began = time.perf_counter()
    found = sample(job["tokens"])
    logprobs = model.compute_transition_scores(found.sequences, found.logits, normalize_logits=True)
    flat = logprobs.flatten().tolist()
    seconds = time.perf_counter() - began
    return {
        "tokens": len(flat),
        "seconds": seconds,
        "mean_logprob": sum(flat) / len(flat),
        "cuda_memory": torch.cuda.max_memory_allocated() / 1e9 if job["device"] == "cuda" else None,
        "settings": {"attention": model.config._attn_implementation, "weights": str(model.dtype)},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
