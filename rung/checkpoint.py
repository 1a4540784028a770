"""A checkpoint is a Hugging Face folder with the trainer's state beside it; complete or not there at all.

    checkpoints/step-000100/
        config.json, model.safetensors, tokenizer ...   what transformers opens (an adapter: PEFT's files)
        trainer/masters.safetensors                     float32 masters, where the weights above are rounded
        trainer/average.safetensors                     the moving average, where one is kept
        trainer/optimizer.pt, trainer/state.json        the rest of `train.State`

Everything is written to a temporary folder, synced and renamed; LATEST moves last. A kill at any moment
leaves the previous checkpoint as the latest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rung.publish import publish
from rung.run import Run
from rung.train import State

WriteModel = Callable[[Path], None]


def save_checkpoint(run: Run, state: State, write_model: WriteModel, *, keep: int) -> Path:
    """Publish the state as the latest checkpoint and prune older ones down to `keep` (0 keeps all)."""
    path = run.checkpoint_path(state.step)
    if not path.exists():  # a resumed run may stop again before its first step
        with publish(path, size=bytes_needed(state)) as folder:
            write_model(folder)
            trainer = folder / "trainer"
            trainer.mkdir()
            masters = {
                n: w.detach() for n, w in state.masters.weights.items() if w is not state.masters.compute[n]
            }
            if masters:
                save_file(masters, trainer / "masters.safetensors")
            if state.average.weights:
                save_file(state.average.weights, trainer / "average.safetensors")
            torch.save(state.stepper.state(), trainer / "optimizer.pt")
            rest = {"step": state.step, "tokens": state.tokens, "scale": state.scale.state()}
            (trainer / "state.json").write_text(json.dumps(rest) + "\n")
    run.set_latest(state.step)
    prune(run, keep)
    return path


def load_checkpoint(path: Path, state: State) -> None:
    """Bring a freshly built State to a checkpoint; its model must hold the weights there."""
    trainer = path / "trainer"
    rest: dict[str, Any] = json.loads((trainer / "state.json").read_text())
    if (trainer / "masters.safetensors").exists():
        # A float32 weight of a mixed model is its own master: it came with the model, and no file repeats it.
        state.masters.load({**state.masters.weights, **load_file(trainer / "masters.safetensors")})
    if (trainer / "average.safetensors").exists():
        state.average.weights = load_file(trainer / "average.safetensors")
    state.stepper.load(torch.load(trainer / "optimizer.pt", weights_only=True))
    state.scale.load(rest["scale"])
    state.step, state.tokens = rest["step"], rest["tokens"]


def prune(run: Run, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, never the one LATEST names."""
    import shutil

    latest = run.latest()
    found = sorted((run.path / "checkpoints").glob("step-*"))
    for path in found[: len(found) - keep] if keep else []:
        if path != latest:
            shutil.rmtree(path)


def bytes_needed(state: State) -> int:
    """An upper estimate of a checkpoint's size: compute weights, masters, two moments, average."""
    compute = sum(p.numel() * p.element_size() for p in state.model.parameters())
    trained = sum(w.numel() for w in state.masters.weights.values())
    return compute + 4 * trained * (3 + bool(state.average.weights))
