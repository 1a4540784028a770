"""k1, k2, k3 on a softmax small enough to enumerate: what they are worth and where they pull are two questions."""

import pytest
import torch
from policy_case import case, run

from rung.methods.kl import kl_estimate, kl_loss
from rung.methods.policy_gradient import policy_gradient

POLICY = torch.tensor([0.3, -1.2, 0.9, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([-0.4, 0.5, 0.2, 0.8], dtype=torch.float64).log_softmax(0)
OLD = torch.tensor([0.6, -0.7, 0.5, -0.2], dtype=torch.float64).log_softmax(
    0
)  # drew the samples, some rounds ago


def policy():
    logits_V = POLICY.clone().requires_grad_()
    return logits_V, logits_V.log_softmax(0)


def gradient_of(make):
    logits_V, logprob_V = policy()
    return torch.autograd.grad(make(logprob_V), logits_V)[0].tolist()


def reverse_kl(logprob_V):
    return (logprob_V.exp() * (logprob_V - REFERENCE)).sum()


def forward_kl(logprob_V):
    return (REFERENCE.exp() * (REFERENCE - logprob_V)).sum()


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(kind):
    logprob_V = policy()[1]
    mean = (logprob_V.exp() * kl_estimate(logprob_V, REFERENCE, kind)).sum()
    assert mean.item() == pytest.approx(reverse_kl(logprob_V).item())
    assert (kl_estimate(logprob_V, REFERENCE, "k3") >= 0).all()


def test_k2_is_biased():
    logprob_V = policy()[1]
    mean = (logprob_V.exp() * kl_estimate(logprob_V, REFERENCE, "k2")).sum()
    by_hand = (logprob_V.exp() * (logprob_V - REFERENCE) ** 2).sum() / 2
    assert mean.item() == pytest.approx(by_hand.item())
    assert abs(mean - reverse_kl(logprob_V)) > 0.01


@pytest.mark.parametrize(
    ("kind", "truth"), [("k1", lambda p: 0 * p.sum()), ("k2", reverse_kl), ("k3", forward_kl)]
)
def test_the_plain_gradients_expectation(kind, truth):
    """Samples stand still for autograd: the expectation is over weights that have no gradient."""

    def sampled(logprob_V):
        terms_V = kl_loss(logprob_V, REFERENCE, torch.ones(4), kind, "plain")
        return (logprob_V.detach().exp() * terms_V).sum()

    assert gradient_of(sampled) == pytest.approx(gradient_of(truth), abs=1e-12)


@pytest.mark.parametrize("behaviour_V", [None, OLD], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_the_reverse_gradient_is_right_for_every_estimator_and_any_age_of_the_samples(kind, behaviour_V):
    def sampled(logprob_V):
        drawn_V = logprob_V.detach() if behaviour_V is None else behaviour_V
        ratio_V = (logprob_V - drawn_V).exp()
        return (drawn_V.exp() * kl_loss(logprob_V, REFERENCE, ratio_V, kind, "reverse")).sum()

    assert gradient_of(sampled) == pytest.approx(gradient_of(reverse_kl), abs=1e-12)
    if kind != "k2":
        assert sampled(policy()[1]).item() == pytest.approx(reverse_kl(policy()[1]).item())


def test_ratio_times_k3_has_that_gradient_sample_by_sample():
    """The identity the module's docstring derives: r k3 differentiated outright, against sg[r] k2."""
    logits_V, logprob_V = policy()
    outright_V = (logprob_V - OLD).exp() * kl_estimate(logprob_V, REFERENCE, "k3")
    ours_V = kl_loss(logprob_V, REFERENCE, (logprob_V - OLD).exp(), "k3", "reverse")
    assert ours_V.tolist() == pytest.approx(outright_V.tolist())
    for outright, ours in zip(outright_V, ours_V, strict=True):
        expected = torch.autograd.grad(outright, logits_V, retain_graph=True)[0].tolist()
        assert torch.autograd.grad(ours, logits_V, retain_graph=True)[0].tolist() == pytest.approx(expected)


def test_at_the_reference_there_is_no_pull_and_no_penalty():
    for kind in ("k1", "k2", "k3"):
        logprob_V = REFERENCE.clone().requires_grad_()
        terms_V = kl_loss(logprob_V, REFERENCE, torch.ones(4), kind, "reverse")
        assert terms_V.tolist() == [0] * 4
        assert torch.autograd.grad(terms_V.sum(), logprob_V)[0].tolist() == [0] * 4


def test_in_the_loss_by_hand():
    """d = log reference - log p = 0.5 and -1. k3 = e^0.5 - 1.5 and e^-1; the gradient is -d beta each."""
    columns = dict(advantage=[[0.0, 0.0]], reference_logprob=[[-1.5, -2.0]])
    scores, batch = case([[-2.0, -1.0]], **columns)
    loss, gradient = run(policy_gradient, scores, batch, beta=0.1)
    assert loss.sum.item() == pytest.approx(0.1 * (1.6487212707 - 1.5 + 0.3678794412))
    assert gradient == pytest.approx([-0.05, 0.1])
    _, plain = run(policy_gradient, scores, batch, beta=0.1, kl_gradient="plain")
    assert plain == pytest.approx([0.1 * (1 - 1.6487212707), 0.1 * (1 - 0.3678794412)])


def test_beta_zero_does_not_look_at_the_reference():
    rows = dict(advantage=[[1.0, -2.0]])
    _, without = run(policy_gradient, *case([[-2.0, -1.0]], **rows))
    _, beside = run(policy_gradient, *case([[-2.0, -1.0]], **rows, reference_logprob=[[-1.0, -5.0]]))
    _, barely = run(
        policy_gradient, *case([[-2.0, -1.0]], **rows, reference_logprob=[[-1.0, -5.0]]), beta=1e-9
    )
    assert beside == without
    assert barely == pytest.approx(without, rel=1e-6)


def test_a_reference_at_the_other_end_of_the_world_stays_finite():
    scores, batch = case([[-0.1, -900.0]], advantage=[[1.0, 1.0]], reference_logprob=[[-900.0, -0.1]])
    loss, gradient = run(policy_gradient, scores, batch, beta=0.1)
    assert torch.isfinite(loss.sum) and torch.isfinite(torch.tensor(gradient)).all()
