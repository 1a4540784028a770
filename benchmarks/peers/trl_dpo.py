"""TRL's DPOTrainer on given pairs; runs in .venv-peers, started by benchmarks/dpo.py.

    python trl_dpo.py JOB.json      prints one JSON object last

The pairs come as token ids, in the order in which they are trained; the trainer's own tokenising is skipped. What the
job does not name keeps TRL's default; what it was is part of the answer.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer


class Watch(TrainerCallback):
    """The time at the end of every step."""

    def __init__(self, cuda: bool):
        self.cuda = cuda
        self.ends: list[float] = []

    def on_step_end(self, *arguments, **more):
        if self.cuda:
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


class OnIds(DPOTrainer):
    """Rows that are token ids already, and a clock on the reference computed beforehand."""

    reference_seconds = 0.0

    def _prepare_dataset(self, dataset, *arguments):
        return dataset

    def _precompute_ref_logps(self, *arguments):
        began = time.perf_counter()
        found = super()._precompute_ref_logps(*arguments)
        self.reference_seconds += time.perf_counter() - began
        return found


def main(job: dict) -> dict:
    cuda = job["device"] == "cuda"
    if cuda and not torch.cuda.is_available():
        sys.exit("this environment's torch sees no CUDA device; make it anew with a CUDA build of torch")
    watch = Watch(cuda)
    columns = {"prompt_ids": job["prompts"], "chosen_ids": job["chosen"], "rejected_ids": job["rejected"]}
    with tempfile.TemporaryDirectory() as folder:
        trainer = OnIds(
            model=job["model"],
            args=settings(job, folder, cuda),
            train_dataset=Dataset.from_dict(columns),
            callbacks=[watch],
        )
        trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    rows, size = list(trainer.train_dataset), job["pairs_per_step"]
    batches = [trainer.data_collator(rows[first : first + size]) for first in range(0, len(rows), size)]
    return {
        "seconds": [after - before for before, after in zip(watch.ends, watch.ends[1:], strict=False)],
        "reference_seconds": trainer.reference_seconds,
        "trained": [int(batch["completion_mask"].sum()) for batch in batches],
        "losses": [row["loss"] for row in logged],
        "cuda_memory": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
        "settings": described(trainer),
        "versions": {
            name: importlib.metadata.version(name) for name in ("trl", "transformers", "accelerate", "torch")
        },
    }


def settings(job: dict, folder: str, cuda: bool) -> DPOConfig:
    return DPOConfig(
        output_dir=folder,
        max_length=job["length"],
        train_sampling_strategy="sequential",
        per_device_train_batch_size=job["pairs_at_once"],
        gradient_accumulation_steps=job["pairs_per_step"] // job["pairs_at_once"],
        precompute_ref_log_probs=job["precompute"],
        max_steps=job["steps"],
        bf16=True,
        use_cpu=not cuda,
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=job["betas"][0],
        adam_beta2=job["betas"][1],
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **({} if job["recompute"] is None else {"gradient_checkpointing": job["recompute"]}),
    )


def described(trainer: DPOTrainer) -> dict:
    """The settings that decide speed and memory, defaults among them."""
    names = (
        "bf16", "gradient_checkpointing", "per_device_train_batch_size", "gradient_accumulation_steps",
        "optim", "precompute_ref_log_probs", "loss_type", "beta", "torch_compile", "use_liger_kernel",
    )  # fmt: skip
    return {name: str(getattr(trainer.args, name)) for name in names} | {
        "attention": str(trainer.model.config._attn_implementation),
        "weights": str(next(trainer.model.parameters()).dtype),
        "threads": str(torch.get_num_threads()),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
