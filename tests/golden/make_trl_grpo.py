"""Writes tests/golden/trl_grpo.json: TRL's GRPO losses and gradients for fixed log-probs, without a model.

Run with a Python that has TRL (made with 1.16): `python tests/golden/make_trl_grpo.py`. TRL's loss is a method of
its trainer; here it is called on a stand-in that hands out the given log-probs and records nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
from trl.trainer.grpo_trainer import GRPOTrainer

OUT = Path(__file__).parent / "trl_grpo.json"
LENGTHS = [3, 1, 4, 2]
MAX_LENGTH = 6
BASE = dict(loss_type="grpo", level="token", low=0.2, high=0.2, beta=0.0, unbiased_kl=False, top=1.0)
CASES = {
    "grpo": {},
    "grpo with k3": dict(beta=0.3),
    "grpo with unbiased k3": dict(beta=0.3, unbiased_kl=True),
    "grpo corrected": dict(corrected=True),
    "dr_grpo": dict(loss_type="dr_grpo"),
    "dapo": dict(loss_type="dapo", high=0.28),
    "gspo": dict(level="sequence", low=0.05, high=0.06),
    "cispo": dict(loss_type="cispo", high=1.3),
    "high entropy": dict(loss_type="dapo", high=0.28, top=0.4),
}


class Alone:
    """One process: nothing to gather."""

    num_processes = 1

    def gather(self, x):
        return x

    def reduce(self, x, reduction):
        return x

    def pad_across_processes(self, x, dim, pad_index):
        return x


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (len(LENGTHS), max(LENGTHS))
    now = -2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.05
    near = [now + 0.4 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    entropy = 2 * torch.rand(shape, generator=generator, dtype=torch.float64)
    mask = torch.arange(shape[1])[None] < torch.tensor(LENGTHS)[:, None]
    advantage = torch.tensor([1.3, -0.6, -1.1, 0.4], dtype=torch.float64)
    names = ("logprob", "old_logprob", "reference_logprob", "sampler_logprob", "entropy", "mask", "advantage")
    return dict(zip(names, [now, *near, entropy, mask, advantage], strict=True))


def trl_loss(given: dict[str, torch.Tensor], *, corrected: bool = False, **options) -> tuple[float, list]:
    """TRL's loss, and its gradient in each sequence's log-probs."""
    options = BASE | options
    logprob = given["logprob"].clone().requires_grad_()
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logprob, given["entropy"], None),
        get_high_entropy_mask=lambda *a: GRPOTrainer.get_high_entropy_mask(trainer, *a),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=options["unbiased_kl"]),
        accelerator=Alone(),
        model=SimpleNamespace(training=False),
        _metrics=defaultdict(lambda: defaultdict(list)),
        loss_type=options["loss_type"],
        importance_sampling_level=options["level"],
        epsilon_low=options["low"],
        epsilon_high=options["high"],
        beta=options["beta"],
        top_entropy_quantile=options["top"],
        max_completion_length=MAX_LENGTH,
        use_vllm=corrected,
        vllm_importance_sampling_correction=corrected,
        aux_loss_enabled=False,
        off_policy_mask_threshold=None,
        _entropy_bonus_enabled=False,
    )
    mask = given["mask"].int()
    batch = dict(prompt_ids=mask[:, :1], prompt_mask=mask[:, :1], completion_ids=mask, completion_mask=mask)
    batch |= dict(advantages=given["advantage"], old_per_token_logps=given["old_logprob"])
    batch |= dict(ref_per_token_logps=given["reference_logprob"], num_items_in_batch=mask.sum())
    ratio = (given["old_logprob"] - given["sampler_logprob"]).exp()
    batch["importance_sampling_ratio"] = ratio.clamp(max=1.2)
    loss = GRPOTrainer._compute_loss(trainer, trainer.model, batch)
    (gradient,) = torch.autograd.grad(loss, logprob)
    return loss.item(), [row[:n] for row, n in zip(gradient.tolist(), LENGTHS, strict=True)]


def main() -> None:
    given = inputs()
    out: dict = {"max_length": MAX_LENGTH, "advantage": given["advantage"].tolist(), "losses": {}}
    for name in ("logprob", "old_logprob", "reference_logprob", "sampler_logprob", "entropy"):
        out[name] = [row[:n] for row, n in zip(given[name].tolist(), LENGTHS, strict=True)]
    for name, options in CASES.items():
        loss, gradient = trl_loss(given, **options)
        out["losses"][name] = {"loss": loss, "gradient": gradient}
    OUT.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
