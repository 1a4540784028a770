"""TRL's GRPOTrainer on given questions; runs in .venv-peers, started by benchmarks/grpo.py.

    python trl_grpo.py JOB.json      prints one JSON object last

What the job does not name keeps TRL's default; what it was is part of the answer.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Watch(TrainerCallback):
    """The time at the end of every step."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, *arguments, **more):
        self.ends.append(time.perf_counter())


def main(job: dict) -> dict:
    cuda = job["device"] == "cuda"
    watch = Watch()
    rollouts = job["prompts"] * job["answers"]
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=job["rows_at_once"],
            gradient_accumulation_steps=rollouts // job["rows_at_once"],
            num_generations=job["answers"],
            max_completion_length=job["tokens"],
            generation_kwargs={"min_new_tokens": job["tokens"]},
            temperature=1.0,
            beta=0.0,
            max_steps=job["steps"],
            bf16=True,
            model_init_kwargs={"dtype": "bfloat16"},
            use_cpu=not cuda,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            **({} if job["recompute"] is None else {"gradient_checkpointing": job["recompute"]}),
        )
        questions = [{"prompt": [{"role": "user", "content": q}]} for q in job["questions"]]
        trainer = GRPOTrainer(
            model=job["model"],
            reward_funcs=reward(job["reward"]),
            args=settings,
            train_dataset=Dataset.from_list(questions),
            callbacks=[watch],
        )
        trainer.train()
    logged = [row for row in trainer.state.log_history if "completions/mean_length" in row]
    return {
        "seconds": [after - before for before, after in zip(watch.ends, watch.ends[1:], strict=False)],
        "tokens": [round(row["completions/mean_length"] * rollouts) for row in logged],
        "cuda_memory": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
        "settings": described(trainer),
        "versions": {
            name: importlib.metadata.version(name) for name in ("trl", "transformers", "accelerate", "torch")
        },
    }


def reward(file: str):
    spec = importlib.util.spec_from_file_location("grpo_reward", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.letters


def described(trainer: GRPOTrainer) -> dict:
    names = (
        "bf16", "gradient_checkpointing", "per_device_train_batch_size", "gradient_accumulation_steps",
        "loss_type", "num_iterations", "use_vllm", "torch_compile",
    )  # fmt: skip
    return {name: str(getattr(trainer.args, name)) for name in names} | {
        "attention": str(trainer.model.config._attn_implementation),
        "weights": str(next(trainer.model.parameters()).dtype),
        "threads": str(torch.get_num_threads()),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
