"""Which key a name means: rung's own keys, the names users bring from elsewhere, and what to say to the rest.

One table of aliases, one of names that are refused with a reason, and the suggestion for a misspelling.
An alias counts only where the command has its target, so `--lora_r 8` works for `rung sft` and is an
unknown key for `rung doctor`.
"""

from __future__ import annotations

import difflib
import typing

from rung.errors import UserError
from rung.schema import Leaf

# Names users bring from other systems -> rung's own; the first target that the command has is meant.
ALIASES: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("model",),
    "model_name": ("model",),
    "base_model": ("model",),
    "dataset_name": ("data",),
    "dataset": ("data",),
    "train_file": ("data",),
    "eval_dataset": ("eval_data",),
    "validation_file": ("eval_data",),
    "output_dir": ("out",),
    "output": ("out",),
    "lr": ("learning_rate", "optimizer.learning_rate"),
    "learning_rate": ("optimizer.learning_rate",),
    "lr_scheduler_type": ("schedule", "optimizer.schedule"),
    "warmup_ratio": ("optimizer.warmup",),
    "warmup_steps": ("optimizer.warmup",),
    "num_train_epochs": ("epochs",),
    "max_steps": ("steps",),
    "max_seq_length": ("max_length",),
    "max_seq_len": ("max_length",),
    "max_completion_length": ("max_new_tokens",),
    "max_tokens": ("max_new_tokens",),
    "max_grad_norm": ("clip", "optimizer.clip"),
    "gradient_checkpointing": ("recompute",),
    "neftune_noise_alpha": ("neftune",),
    "weight_decay": ("optimizer.weight_decay",),
    "adam_epsilon": ("optimizer.epsilon",),
    "optim": ("optimizer.name",),
    "torch_dtype": ("precision", "dtype"),
    "save_steps": ("save_every",),
    "save_total_limit": ("keep",),
    "eval_steps": ("eval_every",),
    "resume_from_checkpoint": ("resume",),
    "report_to": ("trackers",),
    "lora_r": ("lora.rank",),
    "lora_rank": ("lora.rank",),
    "lora_alpha": ("lora.alpha",),
    "lora_dropout": ("lora.dropout",),
    "lora_target_modules": ("lora.targets",),
    "use_rslora": ("lora.rank_stabilised",),
}

# Names that have no counterpart, with the reason; better than a guess at a similar spelling.
REFUSED = {
    name: "rung counts whole optimizer steps in tokens and finds the micro-batch itself; "
    "set step_tokens (or step_documents) instead"
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "batch_size")
}


def find(name: str, table: dict[str, Leaf]) -> Leaf | None:
    """The leaf a name means, by itself or as an alias."""
    name = name.replace("-", "_")
    candidates = (name, *ALIASES.get(name, ()))
    return next((table[key] for key in candidates if key in table), None)


def known(name: str, table: dict[str, Leaf], place: str) -> Leaf:
    return find(name, table) or unknown_key(name, table, place)


def unknown_key(name: str, table: dict[str, Leaf], place: str) -> typing.NoReturn:
    plain = name.replace("-", "_")
    if plain in REFUSED:
        raise UserError(f"{place}: there is no key {name!r}: {REFUSED[plain]}")
    inside = [key for key in table if key.startswith(plain + ".")]
    if inside:
        raise UserError(f"{place}: {name!r} is a section, not a key; it holds {', '.join(inside)}")
    # A key may be forgotten its section (`rank` for `lora.rank`), so last parts count as spellings too.
    spellings = {key.rsplit(".", 1)[-1]: key for key in table} | {key: key for key in table}
    spellings |= {alias: leaf.key for alias in ALIASES if (leaf := find(alias, table))}
    near = difflib.get_close_matches(plain, spellings, n=3, cutoff=0.6)
    guesses = list(dict.fromkeys(spellings[spelling] for spelling in near))
    remedy = f"did you mean {' or '.join(guesses)}?" if guesses else "--help lists the keys"
    raise UserError(f"{place}: unknown key {name!r}; {remedy}")
