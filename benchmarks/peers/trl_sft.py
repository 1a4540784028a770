"""TRL's SFTTrainer on given packed rows; runs in .venv-peers, started by benchmarks/sft.py.

    python trl_sft.py JOB.json      prints one JSON object last

The rows come as TRL's own packing makes them (`input_ids`, `labels`, `seq_lengths`), in the order in which
they are trained. What the job does not name keeps TRL's default; what it was is part of the answer.
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
from trl import SFTConfig, SFTTrainer


class Watch(TrainerCallback):
    """The time at the end of every step."""

    def __init__(self, cuda: bool):
        self.cuda = cuda
        self.ends: list[float] = []

    def on_step_end(self, *arguments, **more):
        if self.cuda:
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def main(job: dict) -> dict:
    cuda = job["device"] == "cuda"
    if cuda and not torch.cuda.is_available():
        sys.exit("this environment's torch sees no CUDA device; make it anew with a CUDA build of torch")
    watch = Watch(cuda)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=job["model"],
            args=settings(job, folder, cuda),
            train_dataset=Dataset.from_list(job["rows"]),
            callbacks=[watch],
        )
        trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    rows, size = list(trainer.train_dataset), job["rows_per_step"]
    batches = [trainer.data_collator(rows[first : first + size]) for first in range(0, len(rows), size)]
    return {
        "seconds": [after - before for before, after in zip(watch.ends, watch.ends[1:], strict=False)],
        "tokens": differences([row["num_tokens"] for row in logged]),
        "targets": [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches],
        "losses": [row["loss"] for row in logged],
        "cuda_memory": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
        "settings": described(trainer),
        "versions": {
            name: importlib.metadata.version(name) for name in ("trl", "transformers", "accelerate", "torch")
        },
    }


def settings(job: dict, folder: str, cuda: bool) -> SFTConfig:
    flash = cuda and importlib.util.find_spec("flash_attn")
    return SFTConfig(
        output_dir=folder,
        model_init_kwargs={"attn_implementation": "flash_attention_2"} if flash else None,
        packing=True,
        max_length=job["length"],
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",
        per_device_train_batch_size=job["rows_at_once"],
        gradient_accumulation_steps=job["rows_per_step"] // job["rows_at_once"],
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


def described(trainer: SFTTrainer) -> dict:
    """The settings that decide speed and memory, defaults among them."""
    names = (
        "bf16", "gradient_checkpointing", "per_device_train_batch_size", "gradient_accumulation_steps",
        "optim", "packing_strategy", "loss_type", "torch_compile", "use_liger_kernel",
    )  # fmt: skip
    return {name: str(getattr(trainer.args, name)) for name in names} | {
        "padding_free": str(trainer.padding_free),
        "attention": str(trainer.model.config._attn_implementation),
        "weights": str(next(trainer.model.parameters()).dtype),
        "threads": str(torch.get_num_threads()),
    }


def differences(totals: list[float]) -> list[int]:
    return [round(after - before) for before, after in zip([0, *totals], totals, strict=False)]


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
