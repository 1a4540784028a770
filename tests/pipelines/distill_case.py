"""What the tests of distillation share: models made from the tiny one."""

import json
import shutil

import torch

from rung.models.folder import read_tensors, write_folder
from rung.models.hub import load_tokenizer


def remade(folder, out, change, rows=0):
    """The tiny model with its weights changed, its embedding perhaps padded."""
    tensors = read_tensors(folder)
    dice = torch.Generator().manual_seed(7)
    tensors = {n: t + change * torch.randn(t.shape, generator=dice) for n, t in tensors.items()}
    config = json.loads((folder / "config.json").read_text())
    if rows:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            if name in tensors:
                pad = torch.full((rows - len(tensors[name]), tensors[name].shape[1]), 5.0)
                tensors[name] = torch.cat([tensors[name], pad])
        config["vocab_size"] = rows
    write_folder(out, tensors, config, load_tokenizer(str(folder)))
    return out


def permuted(folder, out):
    shutil.copytree(folder, out)
    file = out / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(content))
    return out


def told(capsys):
    return " ".join(capsys.readouterr().err.split())
