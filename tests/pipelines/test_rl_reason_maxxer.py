"""ReasonMaxxer from end to end: what is minimised at each step, by hand from the rollouts on disk."""

import numpy as np
import pytest
import torch
from rl_case import play, rounds, steps

from rung.models.decoder import Documents
from rung.models.load import load_model


def by_hand(folder, base, graded):
    """-(1/|D|) sum of A log p over decisions + 0.2 times the mean of x - 1 - log x elsewhere, and its gradient's norm."""
    model, base = load_model(folder).eval(), load_model(base).eval()
    at_decisions, anchors = [], []
    entropies = np.concatenate([record.rollout.entropy for record in graded])
    bound = np.quantile(entropies, 0.98)
    rewards: dict[int, list[float]] = {}
    for record in graded:
        rewards.setdefault(record.rollout.group, []).append(record.verdict.value)
    for record in graded:
        rollout, group = record.rollout, rewards[record.rollout.group]
        advantage = (record.verdict.value - np.mean(group)) / (np.std(group) + 1e-6)
        ids = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.token_ids])).long()
        at = torch.arange(len(rollout.prompt_ids), len(ids))
        documents = Documents((len(ids),))
        logprob, start = (
            m.logits(m(ids, torch.arange(len(ids)), documents).states_ND).log_softmax(-1)[at - 1, ids[at]]
            for m in (model, base)
        )
        decision = torch.from_numpy(rollout.entropy >= bound)
        at_decisions.append(-advantage * logprob[decision])
        x = (logprob - start.detach()).exp()
        anchors.append((x - 1 - x.log())[~decision])
    loss = torch.cat(at_decisions).mean() + 0.2 * torch.cat(anchors).mean()
    loss.backward()
    return (
        float(loss.detach()),
        float(sum(p.grad.square().sum() for p in model.parameters()).sqrt()),
        torch.cat(anchors),
    )


def test_each_step_minimises_what_the_paper_writes(tiny_folder, tmp_path):
    torch.set_num_threads(1)
    run = play(
        tiny_folder, tmp_path / "run", method="reason_maxxer", rounds=1, updates=2, epochs=2, group=8,
        save_every=1, optimizer__learning_rate=0.02, max_tokens=12,
    )  # fmt: skip
    [graded] = rounds(run)
    assert {int(v) for record in graded for v in record.rollout.version} == {0}
    first, second = steps(run)
    models = (tiny_folder, run / "checkpoints" / "step-000001")
    for row, folder in zip((first, second), models, strict=True):
        loss, norm, anchors = by_hand(folder, tiny_folder, graded)
        assert row["loss"] == pytest.approx(loss, abs=2e-4)
        assert row["grad_norm"] == pytest.approx(norm, rel=2e-3)
        assert (anchors.max() > 1e-3) == (row is second)  # the anchor is exactly 0 at the start
