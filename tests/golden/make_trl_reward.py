"""Writes tests/golden/trl_reward.json: the loss and gradient of TRL's RewardTrainer for fixed scores, no model.

Run with a Python that has TRL (made with 1.16): `python tests/golden/make_trl_reward.py`. The loss is a method of
the trainer; here it is called on a stand-in, with a model that hands out the given scores.
"""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from trl.trainer.reward_trainer import RewardTrainer

OUT = Path(__file__).parent / "trl_reward.json"
CHOSEN, REJECTED, MARGIN = [1.5, -0.25, 0.0, 4.0], [0.5, 0.75, 0.0, -3.0], [0.0, 0.5, 1.0, 2.0]
CASES = {
    "plain": dict(),
    "centred": dict(centre=0.01),
    "margin": dict(margin=True),
    "margin, centred": dict(margin=True, centre=0.3),
}


class Alone:
    """One process: nothing to gather."""

    def gather(self, x):
        return x

    gather_for_metrics = gather


def loss_of(margin: bool = False, centre: float | None = None) -> dict:
    scores = torch.tensor(CHOSEN + REJECTED, dtype=torch.float64, requires_grad=True)

    class Model:
        training = True

        def __call__(self, **inputs):
            return SimpleNamespace(logits=scores[:, None])

    trainer = SimpleNamespace(
        args=SimpleNamespace(center_rewards_coefficient=centre),
        accelerator=Alone(),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        maybe_activation_offload_context=nullcontext(),
    )
    model = Model()
    trainer.model = model
    inputs = {"attention_mask": torch.ones(8, 1)}
    if margin:
        inputs["margin"] = torch.tensor(MARGIN, dtype=torch.float64)
    loss = RewardTrainer.compute_loss(trainer, model, inputs)
    loss.backward()
    return {"loss": loss.item(), "gradient": scores.grad.tolist()}


def main() -> None:
    losses = {name: loss_of(**case) for name, case in CASES.items()}
    golden = {"chosen": CHOSEN, "rejected": REJECTED, "margin": MARGIN, "losses": losses}
    OUT.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
