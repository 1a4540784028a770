"""DPO on an enumerable policy: the KL-regularised optimum is where its gradient is zero, and where it goes.

Five answers of one token, a reward for each, preferences exactly those of Bradley and Terry: P(i over j) =
sigmoid(r_i - r_j). Every ordered pair of answers enters as often as it occurs, by a weight on its loss.
"""

import torch
from preference_case import answer, scores_of

from rung.batch import Pair, collate_pairs
from rung.methods.dpo import dpo
from rung.methods.ipo import ipo

BETA = 0.4
REWARD = torch.tensor([0.0, 1.0, -0.5, 2.0, 0.3], dtype=torch.float64)
START = torch.tensor([0.5, -0.2, 1.0, -1.5, 0.0], dtype=torch.float64).log_softmax(0)
PAIRS = [(i, j) for i in range(5) for j in range(5) if i != j]
OPTIMUM = (START + REWARD / BETA).log_softmax(0)  # pi* ~ start exp(r / beta)


def expected_loss(logits, method, **options):
    """The loss of each ordered pair, weighted by how often Bradley and Terry prefer it so."""
    logprob = logits.log_softmax(0)
    total = 0.0
    for i, j in PAIRS:
        pair = Pair(answer([float(START[i])], 20 + i), answer([float(START[j])], 20 + j))
        batch = collate_pairs([pair])
        often = torch.sigmoid(REWARD[i] - REWARD[j]) / len(PAIRS)
        total = total + often * method(scores_of(batch, logprob[[i, j]]), batch, **options).sum
    return total


def gradient_at(logits, method, **options):
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(expected_loss(logits, method, **options), logits)
    return gradient


def kl(p, q) -> float:
    return float((p.exp() * (p - q)).sum())


def test_the_regularised_optimum_is_stationary_for_dpo():
    assert gradient_at(OPTIMUM, dpo, beta=BETA).abs().max() < 1e-7  # the start is stored in float32
    assert gradient_at(START, dpo, beta=BETA).abs().max() > 1e-2
    assert gradient_at(OPTIMUM, dpo, beta=2 * BETA).abs().max() > 1e-3  # another beta, another optimum


def test_descent_on_dpo_ends_there():
    logits = START.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=25, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = expected_loss(logits, dpo, beta=BETA)
        loss.backward()
        return loss

    optimizer.step(closure)
    found = logits.detach().log_softmax(0)
    assert kl(found, OPTIMUM) < 1e-8 < 0.1 < kl(START, OPTIMUM)


def test_ipo_ends_elsewhere_since_it_regresses_on_the_preference_itself():
    """IPO's stationary gap of two answers is (2 P(i over j) - 1) / (2 beta), not the reward's difference."""
    assert gradient_at(OPTIMUM, ipo, beta=BETA).abs().max() > 1e-3
