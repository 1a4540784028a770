"""PPO's loss: by hand, against TRL's published one, by finite differences, under any micro-batches."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from policy_case import batch_of, scores_of

from rung.advantages.actor_critic import critic_credit
from rung.advantages.recipes import RECIPES
from rung.advantages.returns import adapt_beta, kl_penalty, whiten
from rung.methods.dapo import dapo
from rung.methods.ppo import ppo, value_loss
from rung.metrics import derived

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/trl_ppo.json").read_text())
LENGTHS = tuple(len(row) for row in GOLDEN["old"])
ALL = np.ones(sum(LENGTHS), bool)


def flat(name: str) -> np.ndarray:
    return np.concatenate(GOLDEN[name])


def split(values) -> list[list[float]]:
    return [part.tolist() for part in np.split(np.asarray(values), np.cumsum(LENGTHS)[:-1])]


def given(rows: list[dict], logprob, value, cost=None):
    """Scores in float64 that want gradients, and the batch."""
    batch = batch_of(rows)
    leaves = [torch.tensor(np.asarray(x), dtype=torch.float64, requires_grad=True) for x in (logprob, value)]
    values = {"value": leaves[1]} | (
        {} if cost is None else {"cost": torch.tensor(cost, dtype=torch.float64)}
    )
    return replace(scores_of(batch, leaves[0]), values=values), batch, leaves


def golden_rows() -> list[dict]:
    names = {
        "advantage": "advantages",
        "old_logprob": "old",
        "old_value": "values",
        "return_value": "returns",
    }
    return [{ours: GOLDEN[theirs][i] for ours, theirs in names.items()} for i in range(len(LENGTHS))]


# ---- TRL ----


def test_trl_gives_the_same_credit():
    """Rewards per token, GAE, returns; TRL divides by the sample deviation, we by the population's."""
    penalty = kl_penalty(flat("old"), flat("reference"), ALL, beta=GOLDEN["beta"])
    recipe = replace(RECIPES["ppo"], estimator_options={"discount": 0.9, "trace": 0.8})
    advantage, columns = critic_credit(
        recipe, np.array(GOLDEN["score"]), penalty, LENGTHS, ALL, flat("values")
    )
    assert columns["return_value"] == pytest.approx(flat("returns"))
    assert columns["old_value"].tolist() == flat("values").tolist()
    bessel = (len(ALL) / (len(ALL) - 1)) ** 0.5
    assert whiten(advantage, ALL) == pytest.approx(flat("advantages") * bessel)


def test_trl_gives_the_same_loss_and_gradients():
    scores, batch, leaves = given(golden_rows(), flat("logprob"), flat("predicted"))
    loss = ppo(scores, batch)
    assert loss.count == len(ALL)
    theirs = GOLDEN["policy_loss"] + GOLDEN["value_loss"]
    assert loss.sum.item() / loss.count == pytest.approx(theirs, rel=1e-6)
    gradients = torch.autograd.grad(loss.sum / loss.count, leaves)
    assert gradients[0].tolist() == pytest.approx(flat("policy_gradient").tolist(), rel=1e-5, abs=1e-9)
    assert gradients[1].tolist() == pytest.approx(flat("value_gradient").tolist(), rel=1e-5, abs=1e-9)
    assert loss.metrics["value_clipped"][0] / loss.count == pytest.approx(GOLDEN["value_clipped"])


def test_trl_steers_the_kl_coefficient_the_same_way():
    beta = 0.2
    for kl, theirs in zip((3.0, 30.0, 6.3, 0.0), GOLDEN["betas"], strict=True):
        beta = adapt_beta(beta, kl, target=6.0, steps=256, horizon=10_000)
        assert beta == pytest.approx(theirs, rel=1e-12)


# ---- by hand ----


def test_the_value_loss_by_hand():
    """Old 0, clip 0.2, return 1. At 0.1: (0.9)^2/2. At 0.5 the clip holds: (0.8)^2/2, no gradient. At -1: 4/2."""
    value = torch.tensor([0.1, 0.5, -1.0, 1.5], dtype=torch.float64, requires_grad=True)
    loss, clipped = value_loss(value, torch.zeros(4), torch.ones(4), 0.2)
    assert loss.tolist() == pytest.approx([0.405, 0.32, 2.0, 0.32])
    assert clipped.tolist() == [False, True, False, True]
    (gradient,) = torch.autograd.grad(loss.sum(), value)
    assert gradient.tolist() == pytest.approx([-0.9, 0.0, -2.0, 0.0])
    free, never = value_loss(value, torch.zeros(4), torch.ones(4), 0.0)
    assert free.tolist() == pytest.approx([0.405, 0.125, 2.0, 0.125])
    assert not never.any()


def test_a_row_by_hand():
    """r = e^0.1, e^-0.3, 1 with A = 1, -1, 2: -e^0.1 + 0.8 - 2; values off by 1, 0, 2: 0.1 (1 + 0 + 4) / 2."""
    row = dict(advantage=[1, -1, 2], old_logprob=[-1, -1, -1], old_value=[0, 0, 0], return_value=[1, 0, -2])
    scores, batch, _ = given([row], [-0.9, -1.3, -1.0], [0.0, 0.0, 0.0])
    loss = ppo(scores, batch)
    policy = -np.exp(0.1) + 0.8 - 2
    assert loss.sum.item() == pytest.approx(policy + 0.1 * 2.5, rel=1e-6)
    assert ppo(scores, batch, value_weight=0.0).sum.item() == pytest.approx(policy, rel=1e-6)
    assert ppo(scores, batch, value_weight=1.0).sum.item() == pytest.approx(policy + 2.5, rel=1e-6)
    moved = [np.exp(d) - d - 1 for d in (0.1, -0.3, 0.0)]  # E over the old policy of r - 1 - log r
    assert loss.metrics["update_kl"] == (pytest.approx(sum(moved), rel=1e-5), 3.0)


def test_without_a_critic_it_is_the_clipped_surrogate():
    scores, batch, _ = given(golden_rows(), flat("logprob"), flat("predicted"))
    bare = replace(scores, values={})
    assert ppo(bare, batch).sum.item() == dapo(bare, batch, clip_high=0.2).sum.item()


def test_two_critics_are_two_regressions():
    """The critic of costs, off by 1 and 3 on two tokens, adds 0.1 (1 + 9) / 2."""
    row = dict(advantage=[0, 0], old_logprob=[-1, -1], old_value=[0, 0], return_value=[0, 0])
    row |= dict(old_cost=[0, 0], return_cost=[1, -3])
    scores, batch, _ = given([row], [-1.0, -1.0], [0.0, 0.0], cost=[0.0, 0.0])
    assert ppo(scores, batch).sum.item() == pytest.approx(0.5)


def test_explained_variance_of_a_whole_step():
    """Returns 0, 1, 2, 3 (variance 1.25). Expected 0, 1, 2, 3 + 7: all of it. A constant: none. Off by noise +-1/2."""
    returns = [0.0, 1.0, 2.0, 3.0]
    for old, explained in (([7.0, 8, 9, 10], 1.0), ([5.0] * 4, 0.0), ([0.5, 0.5, 2.5, 2.5], 0.8)):
        row = dict(advantage=[0] * 4, old_logprob=[-1] * 4, old_value=old, return_value=returns)
        scores, batch, _ = given([row], [-1.0] * 4, [0.0] * 4)
        means = {name: total / count for name, (total, count) in ppo(scores, batch).metrics.items()}
        assert derived(means)["explained_variance"] == pytest.approx(explained)


def test_a_token_of_weight_0_teaches_neither_actor_nor_critic():
    rows = golden_rows()
    rows[0]["weight"] = [0.0] * LENGTHS[0]
    for row, n in zip(rows[1:], LENGTHS[1:], strict=True):
        row["weight"] = [1.0] * n
    scores, batch, leaves = given(rows, flat("logprob"), flat("predicted"))
    loss = ppo(scores, batch, entropy_bonus=0.0)
    assert loss.count == len(ALL) - LENGTHS[0]
    for gradient in torch.autograd.grad(loss.sum, leaves):
        assert (gradient[: LENGTHS[0]] == 0).all()
        assert (gradient[LENGTHS[0] :] != 0).any()


# ---- otherwise computed ----


@pytest.mark.parametrize("aggregation", ["token", "sequence", "sequence_sum"])
@pytest.mark.parametrize("value_clip", [0.0, 0.2])
def test_gradients_are_finite_differences(aggregation, value_clip):
    options = dict(
        aggregation=aggregation, value_clip=value_clip, value_weight=0.7, beta=0.1, kl_gradient="plain"
    )
    rows = golden_rows()
    for i, row in enumerate(rows):
        row["reference_logprob"] = GOLDEN["reference"][i]
    points = [flat("logprob"), flat("predicted")]
    scores, batch, leaves = given(rows, *points)
    gradients = torch.autograd.grad(ppo(scores, batch, **options).sum, leaves)
    for which, gradient in enumerate(gradients):
        for t in range(len(ALL)):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [point.copy() for point in points]
                moved[which][t] += step
                sides.append(ppo(*given(rows, *moved)[:2], **options).sum.item())
            assert gradient[t].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_micro_batches_change_nothing(aggregation):
    rows, cut = golden_rows(), sum(LENGTHS[:2])
    scores, batch, leaves = given(rows, flat("logprob"), flat("predicted"))
    whole = ppo(scores, batch, aggregation=aggregation)
    expected = [g / whole.count for g in torch.autograd.grad(whole.sum, leaves)]
    parts = []
    for some, tokens in ((rows[:2], slice(0, cut)), (rows[2:], slice(cut, None))):
        scores, batch, leaves = given(some, flat("logprob")[tokens], flat("predicted")[tokens])
        loss = ppo(scores, batch, aggregation=aggregation)
        parts.append((loss, torch.autograd.grad(loss.sum, leaves)))
    count = sum(loss.count for loss, _ in parts)
    for which in (0, 1):
        found = torch.cat([gradients[which] for _, gradients in parts]) / count
        assert found.tolist() == pytest.approx(expected[which].tolist(), rel=1e-12)
    for name, (total, tokens) in whole.metrics.items():
        assert sum(loss.metrics[name][0] for loss, _ in parts) == pytest.approx(total)
        assert sum(loss.metrics[name][1] for loss, _ in parts) == tokens
