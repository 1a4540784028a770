"""Writes tests/golden/trl_ppo.json: TRL's PPO loss, GAE, per-token rewards and KL controller for fixed numbers.

TRL 0.9.6 is the last with these as methods of one class; later releases dropped PPO. Unpack that wheel into a
folder (`pip download trl==0.9.6 --no-deps`, then unzip) and give the folder:

    python tests/golden/make_trl_ppo.py FOLDER

Only the class's own methods are executed, called on a stand-in; the rest of the package need not be importable.
"""

from __future__ import annotations

import ast
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

OUT = Path(__file__).parent / "trl_ppo.json"
LENGTHS = [3, 1, 4, 2]
WANTED = ("compute_rewards", "_kl_penalty", "compute_advantages", "loss")
CONFIG = dict(
    cliprange=0.2, cliprange_value=0.2, vf_coef=0.1, gamma=0.9, lam=0.8, ratio_threshold=1e9,
    whiten_rewards=False, kl_penalty="kl", use_score_scaling=False,
)  # fmt: skip


def parts_of(file: Path, names: tuple[str, ...], scope: dict) -> None:
    """Execute the functions and classes of these names, wherever in the file, in `scope`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
            exec(compile(ast.Module([node], []), str(file), "exec"), scope)


def trl_of(folder: Path) -> SimpleNamespace:
    from typing import Any, Optional, Union

    scope = dict(torch=torch, np=np, warnings=warnings, math=__import__("math"))
    scope |= dict(Optional=Optional, Tuple=tuple, Union=Union, Any=Any, List=list, Dict=dict)
    core = (
        "masked_mean",
        "masked_var",
        "masked_whiten",
        "clip_by_value",
        "entropy_from_logits",
        "flatten_dict",
    )
    parts_of(folder / "trl/core.py", core, scope)
    scope["flatten_dict"] = lambda stats: {
        f"{group}/{name}": value
        for group, part in stats.items()
        if isinstance(part, dict)
        for name, value in part.items()
    }
    parts_of(folder / "trl/trainer/ppo_trainer.py", WANTED, scope)
    parts_of(folder / "trl/trainer/utils.py", ("AdaptiveKLController",), scope)
    return SimpleNamespace(**scope)


def main(folder: Path) -> None:
    trl = trl_of(folder)
    trainer = SimpleNamespace(config=SimpleNamespace(**CONFIG), kl_ctl=SimpleNamespace(value=0.3))
    trainer._kl_penalty = lambda *a: trl._kl_penalty(trainer, *a)
    generator = torch.Generator().manual_seed(0)
    shape = (len(LENGTHS), max(LENGTHS))

    def draw(scale: float) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    old = -2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.05
    logprob, reference, values = old + draw(0.3), old + draw(0.4), draw(1.0)
    predicted = values + draw(0.3)
    score = torch.tensor([1.3, -0.6, -1.1, 0.4], dtype=torch.float64)
    mask = (torch.arange(shape[1])[None] < torch.tensor(LENGTHS)[:, None]).long()
    rewards, _, _ = trl.compute_rewards(trainer, score, old, reference, mask)
    _, advantages, returns = trl.compute_advantages(trainer, values, rewards, mask)
    given = [t.clone().requires_grad_() for t in (logprob, predicted)]
    logits = torch.zeros(*shape, 5, dtype=torch.float64)
    policy, value, stats = trl.loss(
        trainer, old, values, logits, given[1], given[0], mask, advantages, returns
    )
    gradients = torch.autograd.grad(policy + value, given)
    controller = trl.AdaptiveKLController(0.2, 6.0, 10_000)
    betas = []
    for kl in (3.0, 30.0, 6.3, 0.0):
        controller.update(kl, 256)
        betas.append(controller.value)

    def rows(t: torch.Tensor) -> list[list[float]]:
        return [row[:n] for row, n in zip(t.tolist(), LENGTHS, strict=True)]

    named = dict(old=old, logprob=logprob, reference=reference, values=values, predicted=predicted)
    named |= dict(rewards=rewards, advantages=advantages, returns=returns)
    named |= dict(policy_gradient=gradients[0], value_gradient=gradients[1])
    out: dict = {name: rows(t) for name, t in named.items()}
    out |= {"score": score.tolist(), "beta": trainer.kl_ctl.value, "config": CONFIG, "betas": betas}
    out |= {"policy_loss": policy.item(), "value_loss": value.item()}
    out |= {"value_clipped": stats["val/clipfrac"].item()}
    OUT.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
