"""TRL's losses and gradients for the same log-probs (tests/golden/make_trl_grpo.py), number for number."""

import json
from pathlib import Path

import numpy as np
import pytest
from policy_case import case, run

from rung.advantages.tokens import entropy_mask
from rung.methods.cispo import cispo
from rung.methods.dapo import dapo
from rung.methods.dr_grpo import dr_grpo
from rung.methods.grpo import grpo
from rung.methods.gspo import gspo

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/trl_grpo.json").read_text())


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        ("grpo", grpo, {}),
        ("grpo with k3", grpo, dict(beta=0.3, kl_gradient="plain")),
        ("grpo with unbiased k3", grpo, dict(beta=0.3)),
        ("grpo corrected", grpo, dict(correction="tis", correction_max=1.2)),
        ("dr_grpo", dr_grpo, dict(max_length=GOLDEN["max_length"])),
        ("dapo", dapo, {}),
        ("gspo", gspo, dict(clip_low=0.05, clip_high=0.06)),
        ("cispo", cispo, dict(weight_max=1.3)),
        ("high entropy", dapo, {}),
    ],
)
def test_the_same_loss_and_gradient(name, method, options):
    rows = GOLDEN["logprob"]
    advantage = [[a] * len(row) for a, row in zip(GOLDEN["advantage"], rows, strict=True)]
    if name == "high entropy":
        entropy, cuts = np.concatenate(GOLDEN["entropy"]), np.cumsum([len(row) for row in rows])[:-1]
        credit, _ = entropy_mask(np.concatenate(advantage), entropy, share=0.4)
        advantage = [part.tolist() for part in np.split(credit, cuts)]
    columns = {key: GOLDEN[key] for key in ("old_logprob", "reference_logprob", "sampler_logprob")}
    loss, gradient = run(method, *case(rows, advantage=advantage, **columns), **options)
    theirs = GOLDEN["losses"][name]
    assert loss.sum.item() / loss.count == pytest.approx(theirs["loss"], rel=1e-5)
    flat = [g for row in theirs["gradient"] for g in row]
    assert [g / loss.count for g in gradient] == pytest.approx(flat, rel=1e-5, abs=1e-8)
