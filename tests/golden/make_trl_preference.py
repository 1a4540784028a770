"""Writes tests/golden/trl_preference.json: TRL's preference losses and gradients for fixed log-probs, no model.

Run with a Python that has TRL (made with 1.16): `python tests/golden/make_trl_preference.py`. TRL's losses are
methods of its trainers; here they are called on stand-ins that hand out the given log-probs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

OUT = Path(__file__).parent / "trl_preference.json"
CHOSEN, REJECTED = [3, 1, 4], [2, 5, 4]  # tokens of the answers
LABELS = [True, False, True, True, False, False]  # the same six answers judged one by one
DPO_CASES = {
    "dpo": dict(loss_types=["sigmoid"], beta=0.3),
    "robust": dict(loss_types=["robust"], beta=0.3, label_smoothing=0.2),
    "hinge": dict(loss_types=["hinge"], beta=0.3),
    "ipo": dict(loss_types=["ipo"], beta=0.7),
    "apo zero": dict(loss_types=["apo_zero"], beta=0.3),
    "apo down": dict(loss_types=["apo_down"], beta=0.3),
}


class Alone:
    """One process: nothing to gather."""

    device = torch.device("cpu")
    num_processes = 1

    def gather(self, x):
        return x

    gather_for_metrics = gather

    def reduce(self, x, reduction="sum"):
        return x

    def unwrap_model(self, model):
        return model


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probs of policy and reference and the mask, `[6, 5]`: chosen answers, then rejected ones."""
    generator = torch.Generator().manual_seed(3)
    shape = (6, max(CHOSEN + REJECTED))
    policy = -2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.05
    reference = policy + 0.8 * torch.randn(shape, generator=generator, dtype=torch.float64)
    mask = torch.arange(shape[1])[None] < torch.tensor(CHOSEN + REJECTED)[:, None]
    return policy, reference, mask


def outputs(logprobs: torch.Tensor) -> SimpleNamespace:
    """What TRL's patched model returns, on positions shifted by one."""
    zeros = torch.zeros_like(logprobs)
    return SimpleNamespace(
        log_probs=logprobs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), log_sum_sq_probs=zeros
    )


def stand_in(**options) -> SimpleNamespace:
    fixed = dict(
        ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", use_weighting=False
    )
    fixed |= dict(loss_weights=[1.0], label_smoothing=0.0, aux_loss_enabled=False, _total_train_tokens=0)
    return SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=Alone(),
        _metrics=defaultdict(lambda: defaultdict(list)),
        **fixed | options,
    )


def shifted(mask: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros(len(mask), 1, dtype=torch.long), mask.long()], 1)


def dpo_family(policy, reference, mask, **options) -> torch.Tensor:
    trainer = stand_in(**options)
    ids, start = shifted(mask), reference.sum(1).chunk(2)
    batch = dict(input_ids=ids, attention_mask=ids, completion_mask=ids)
    batch |= dict(ref_chosen_logps=start[0], ref_rejected_logps=start[1])
    return DPOTrainer._compute_loss(trainer, lambda **kwargs: outputs(policy), batch, False)


def kto(policy, reference, mask) -> torch.Tensor:
    """Mismatched answers: the rows in the other order."""
    weights = dict(desirable_weight=1.2, undesirable_weight=0.8)
    trainer = stand_in(loss_type="kto", beta=0.3, calculate_KL=True, **weights)
    trainer._compute_kl_logps = lambda model, batch: policy.flip(0).sum(1)
    ids = shifted(mask)
    batch = dict(input_ids=ids, attention_mask=ids, completion_mask=ids, label=torch.tensor(LABELS))
    batch |= dict(ref_logps=reference.sum(1), ref_KL_logps=reference.flip(0).sum(1))
    return KTOTrainer._compute_loss(trainer, lambda **kwargs: outputs(policy), batch, False)


def with_gradient(loss: torch.Tensor, policy: torch.Tensor, mask: torch.Tensor) -> dict:
    (gradient,) = torch.autograd.grad(loss, policy, retain_graph=True)
    return {"loss": loss.item(), "gradient": rows(gradient, mask)}


def rows(table: torch.Tensor, mask: torch.Tensor) -> list[list[float]]:
    return [row[keep].tolist() for row, keep in zip(table.detach(), mask, strict=True)]


def main() -> None:
    start, reference, mask = inputs()
    policy = start.clone().requires_grad_()
    used, base = policy * mask, reference * mask
    losses = {
        name: with_gradient(dpo_family(used, base, mask, **options), policy, mask)
        for name, options in DPO_CASES.items()
    }
    losses["kto"] = with_gradient(kto(used, base, mask), policy, mask)
    ratio_w, ratio_l = (used - base).sum(1).chunk(2)
    mean_w, mean_l = (used.sum(1) / mask.sum(1)).chunk(2)
    cpo = SimpleNamespace(alpha=0.0, accelerator=Alone(), beta=0.3, label_smoothing=0.2, loss_type="sigmoid")
    losses["cdpo"] = with_gradient(CPOTrainer.cpo_loss(cpo, ratio_w, ratio_l)[0].mean(), policy, mask)
    cpo = SimpleNamespace(alpha=0.0, accelerator=Alone(), beta=2.5, label_smoothing=0.0, loss_type="simpo")
    cpo.simpo_gamma = 1.4
    losses["simpo"] = with_gradient(CPOTrainer.cpo_loss(cpo, mean_w, mean_l)[0].mean(), policy, mask)
    orpo = SimpleNamespace(accelerator=Alone(), beta=0.4)
    odds = ORPOTrainer.odds_ratio_loss(orpo, mean_w, mean_l)[0]
    losses["orpo"] = with_gradient(-odds.mean() - mean_w.mean(), policy, mask)
    out = {
        "labels": LABELS,
        "policy": rows(policy, mask),
        "reference": rows(reference, mask),
        "losses": losses,
    }
    OUT.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
