"""ReasonMaxxer: both terms by hand, the anchor's value and gradient by enumeration, two means from one count."""

import math

import pytest
import torch
from policy_case import case, run

from rung.methods.reason_maxxer import reason_maxxer

COLUMNS = dict(
    advantage=[[2.0, 2.0, 2.0], [-1.0, -1.0]],
    decision=[[1.0, 0.0, 0.0], [0.0, 1.0]],
    weight=[[1.0, 2 / 3, 2 / 3], [2 / 3, 1.0]],
    reference_logprob=[[-1.0, -1.0, -2.0], [-3.0, -2.0]],
)
LOGPROB = [[-1.5, -1.0 + math.log(2), -2.0], [-3.0, -2.5]]


def test_by_hand():
    """Decisions: -2 * -1.5 and 1 * -2.5. Anchor: x = 2 at one of three others, 2 - 1 - log 2."""
    loss, gradient = run(reason_maxxer, *case(LOGPROB, **COLUMNS), kl=0.3)
    anchor = (1 - math.log(2)) / 3
    assert (loss.sum / loss.count).item() == pytest.approx((3.0 - 2.5) / 2 + 0.3 * anchor, rel=1e-6)
    assert gradient == pytest.approx([-2, 0.3 * 2 / 3 * (2 - 1), 0, 0, 1], abs=1e-6)
    assert (loss.count, loss.metrics["decision_share"]) == (2, (2, 5))


def test_the_anchor_is_unbiased_in_value_and_gradient_for_samples_of_the_base():
    base_V = torch.tensor([0.4, -0.3, 1.0], dtype=torch.float64).log_softmax(0)
    logits_V = torch.tensor([0.1, 0.2, -0.5], dtype=torch.float64, requires_grad=True)
    logprob_V = logits_V.log_softmax(0)
    total = torch.zeros((), dtype=torch.float64)
    for v in range(3):
        row = dict(
            advantage=[[5.0]], decision=[[0.0]], weight=[[1.0]], reference_logprob=[[base_V[v].item()]]
        )
        scores, batch = case([[0.0]], **row)
        scores = type(scores)(logprob_V[v : v + 1], scores.document_M)
        total = total + base_V[v].exp() * reason_maxxer(scores, batch, kl=1.0).sum
    true = (base_V.exp() * (base_V - logprob_V)).sum()
    assert total.item() == pytest.approx(true.item(), rel=1e-6)
    expected = torch.autograd.grad(true, logits_V, retain_graph=True)[0].tolist()
    assert torch.autograd.grad(total, logits_V)[0].tolist() == pytest.approx(expected, abs=1e-6)
