"""Which log-probs the importance ratio starts from: the trainer's or the sampler's, by hand."""

import math

import pytest
import torch

from rung.batch import Example, TokenScores, collate
from rung.errors import UserError
from rung.methods import find


def loss_of(advantage, *, logprob=-1.0, old=None, sampler=-1.3, method="dapo", **options):
    """One document of one prompt token and one trained token."""
    columns = {"advantage": [0, advantage], "sampler_logprob": [0, sampler]}
    if old is not None:
        columns["old_logprob"] = [0, old]
    columns = {name: torch.tensor(value, dtype=torch.float32).numpy() for name, value in columns.items()}
    ids, trained = torch.tensor([5, 6], dtype=torch.int32).numpy(), torch.tensor([False, True]).numpy()
    logprob_M = torch.tensor([logprob], requires_grad=True)
    found = find(method)(
        TokenScores(logprob_M, torch.tensor([0])), collate([Example(ids, trained, "x", columns)]), **options
    )
    found.sum.backward()
    return found, float(found.sum.detach()), float(logprob_M.grad)


def test_the_ratio_starts_from_the_trainer_or_from_the_sampler():
    # current -1, trainer's old -1.1, sampler -1.3: current / old = e^0.1, current / sampler = e^0.3
    trainer, value, slope = loss_of(-1.0, old=-1.1)
    assert value == pytest.approx(math.exp(0.1)) and slope == pytest.approx(math.exp(0.1))
    sampler, value, slope = loss_of(-1.0, old=-1.1, ratio_from="sampler")
    assert value == pytest.approx(math.exp(0.3)) and slope == pytest.approx(math.exp(0.3))
    # the mismatch is of the sampler against the trainer's old policy, whatever the ratio starts from
    for found in (trainer, sampler):
        assert found.metrics["sampler_gap"] == (pytest.approx(0.2), 1)
        assert found.metrics["importance_mean"] == (pytest.approx(math.exp(0.3)), 1)
    assert trainer.maxima["ratio_max"] == pytest.approx(math.exp(0.1))
    assert sampler.maxima["ratio_max"] == pytest.approx(math.exp(0.3))


def test_a_sampler_that_disagrees_is_clipped_like_an_old_policy():
    _, value, slope = loss_of(1.0, old=-1.1, clip_high=0.2)
    assert value == pytest.approx(-math.exp(0.1)) and slope != 0
    found, value, slope = loss_of(1.0, old=-1.1, clip_high=0.2, ratio_from="sampler")
    assert value == pytest.approx(-1.2) and slope == 0  # e^0.3 lies above 1.2
    assert found.metrics["clipped_high"] == (1, 1)


def test_without_an_old_policy_the_update_is_not_on_policy_any_more():
    _, value, _ = loss_of(-1.0)
    assert value == 1  # current / current
    found, value, _ = loss_of(-1.0, ratio_from="sampler")
    assert value == pytest.approx(math.exp(0.3))
    assert found.metrics["sampler_gap"] == (pytest.approx(0.3), 1)  # the trainer's policy of now


def test_gspo_takes_its_sequence_ratio_from_there_and_cispo_its_weight():
    _, value, _ = loss_of(-1.0, old=-1.1, method="gspo", ratio_from="sampler")
    assert value == pytest.approx(math.exp(0.3))
    _, value, slope = loss_of(-1.0, old=-1.1, method="cispo", ratio_from="sampler")
    assert value == pytest.approx(math.exp(0.3) * -1.0) and slope == pytest.approx(math.exp(0.3))


def test_the_sampler_is_not_made_up_for_twice():
    with pytest.raises(UserError, match="once more"):
        loss_of(1.0, ratio_from="sampler", correction="tis")
