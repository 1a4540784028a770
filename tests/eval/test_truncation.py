"""Simple self-distillation on two contexts in closed form, and against the sampler's own cuts."""

import numpy as np
import pytest
import torch

from rung.eval.truncation import distilled, entropy, kept

TAIL = np.full(20, 0.01)
FORK = np.concatenate([[0.3, 0.26, 0.24], TAIL])  # three good ways on, a fifth of noise
LOCK = np.concatenate([[0.8], TAIL])  # one


def test_the_tail_goes_and_the_fork_stays_a_fork():
    fork, lock = (distilled(p, 1.5, 10, 0.6) for p in (FORK, LOCK))
    assert fork[3:].sum() == 0 and lock[1:].sum() == 0
    head = FORK[:3] / FORK[:3].sum()
    assert entropy(fork) > entropy(head) > 1.09  # flatter than the head was: log 3 is 1.0986
    assert entropy(lock) == 0


def test_temperature_alone_feeds_the_tail():
    assert distilled(LOCK, 1.5)[1:].sum() > LOCK[1:].sum()
    assert distilled(FORK, 1.0) == pytest.approx(FORK)


def test_the_loss_is_the_sum_of_its_parts():
    generator = np.random.default_rng(0)
    for temperature in (0.7, 1.5, 2.0):
        old, p = generator.dirichlet(np.ones(9)), generator.dirichlet(np.ones(9))
        there, q = kept(old, temperature, 6, 0.9), distilled(old, temperature, 6, 0.9)
        loss = -(q[there] * np.log(p[there])).sum()
        inside = p[there] / p[there].sum()
        z = (inside ** (1 / temperature)).sum()
        renyi = np.log(z) / (1 - 1 / temperature)
        kl = (q[there] * np.log(q[there] / (inside ** (1 / temperature) / z))).sum()
        parts = -np.log(p[there].sum()), (1 - temperature) * renyi, temperature * kl, temperature * entropy(q)
        assert loss == pytest.approx(sum(parts), rel=1e-12)


@pytest.mark.parametrize(
    ("top_k", "top_p", "size"), [(0, 1.0, 23), (2, 1.0, 2), (0, 0.3, 2), (5, 0.1, 1), (3, 0.99, 3)]
)
def test_sizes_by_hand(top_k, top_p, size):
    assert kept(FORK, 1.5, top_k, top_p).sum() == size


def test_fitting_it_by_gradient_gives_the_closed_form():
    """A table of logits for a context, full-batch maximum likelihood on the expected samples."""
    logits = torch.from_numpy(np.log(FORK)).requires_grad_()
    q = torch.from_numpy(distilled(FORK, 1.5, 20, 0.5))
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-10)

    def loss():
        optimizer.zero_grad()
        value = -(q * logits.log_softmax(0)).sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = logits.softmax(0).detach().numpy()
    assert found[3:].sum() < 1e-4 and np.abs(found[:3] - q.numpy()[:3]).max() < 1e-4
