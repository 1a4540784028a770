"""Writes tests/golden/mergekit.safetensors: tiny Llama folders and what mergekit makes of them, method by method.

Run with a Python that has mergekit (made with 0.1.5, benchmarks/peers/requirements.txt):
`python tests/golden/make_mergekit.py`. mergekit runs as its users run it, from a configuration, folder to folder.
Its dice are replaced by a fixed pattern, which the test gives to rung too; and DARE's kept entries are scaled by
1/density in rung, which is `rescale: false, lambda: 1/density` here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent / "mergekit.safetensors"
DENSITY = 0.3


def pattern(size: int, model: int) -> torch.Tensor:
    """Three of ten entries, others for each model. Repeated in tests/merge/test_mergekit.py."""
    return (torch.arange(size) * 7 + 3 * model) % 10 < 10 * DENSITY


calls = 0


def dice(probabilities: torch.Tensor) -> torch.Tensor:
    """In place of torch.bernoulli: mergekit asks for the first model's mask and then for the second's."""
    global calls
    calls += 1
    mask = pattern(probabilities.numel(), (calls - 1) % 2)
    return mask.reshape(probabilities.shape).to(probabilities.dtype)


def models(*weights: float, **more: float) -> list[dict]:
    names = ("a", "b", "c")
    return [
        {"model": name, "parameters": {"weight": weight, **more}}
        for name, weight in zip(names, weights, strict=False)
    ]


BASED = {"base_model": "base"}
CASES = {
    "linear": {"merge_method": "linear", "models": models(0.2, 0.3, 0.5)},
    "slerp": {
        "merge_method": "slerp", "base_model": "a", "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"t": 0.3},
    },
    "task_arithmetic": {"merge_method": "task_arithmetic", **BASED, "models": models(0.7, -0.4, 0.2)},
    "task_arithmetic_scaled": {
        "merge_method": "task_arithmetic", **BASED, "models": models(1.0, 1.0), "parameters": {"lambda": 0.4},
    },
    "ties": {"merge_method": "ties", **BASED, "models": models(1.0, 1.0, 1.0, density=DENSITY)},
    "ties_weighted": {
        "merge_method": "ties", **BASED, "models": models(0.5, 1.5, 1.0, density=0.6),
        "parameters": {"lambda": 0.8},
    },
    "dare": {
        "merge_method": "dare_linear", **BASED, "models": models(0.6, 0.9, density=DENSITY),
        "parameters": {"rescale": False, "lambda": 1 / DENSITY},
    },
    "dare_ties": {
        "merge_method": "dare_ties", **BASED, "models": models(0.6, 0.9, density=DENSITY),
        "parameters": {"rescale": False, "lambda": 1 / DENSITY, "normalize": True},
    },
}  # fmt: skip


def write_folders(root: Path) -> dict[str, Path]:
    config = LlamaConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=12,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    base = LlamaForCausalLM(config)
    start = {name: torch.randn_like(tensor) for name, tensor in base.state_dict().items()}
    for name in ("base", "a", "b", "c"):
        size = 0.0 if name == "base" else 0.5
        base.load_state_dict({k: v + size * torch.randn_like(v) for k, v in start.items()})
        base.save_pretrained(root / name)
    return {name: root / name for name in ("base", "a", "b", "c")}


def placed(value, root: Path):
    """The configuration with names of models made into folders."""
    if isinstance(value, dict):
        return {
            key: str(root / one) if key in ("model", "base_model") else placed(one, root)
            for key, one in value.items()
        }
    return [placed(one, root) for one in value] if isinstance(value, list) else value


def main() -> None:
    global calls
    torch.bernoulli = dice
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name, folder in write_folders(root).items():
            found |= {f"{name}/{k}": v for k, v in load_file(folder / "model.safetensors").items()}
        for case, settings in CASES.items():
            calls = 0
            config = MergeConfiguration.model_validate({**placed(settings, root), "dtype": "float32"})
            run_merge(config, str(root / case), MergeOptions(copy_tokenizer=False, quiet=True))
            [file] = (root / case).glob("*.safetensors")
            found |= {f"{case}/{k}": v for k, v in load_file(file).items()}
    save_file(found, OUT)


if __name__ == "__main__":
    main()
