"""Norms, feed-forward and mixture of experts: each against its formula, the router losses by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from rung.models.config import Experts
from rung.models.parts import MLP, DyT, MixtureOfExperts, RMSNorm, Router, router_losses


def test_a_new_norm_only_normalises():
    """A fresh weight and its offset add to one: Llama starts at 1 + 0, Gemma at 0 + 1."""
    x = torch.tensor([[3.0, 4.0]])
    for offset in (0.0, 1.0):
        norm = RMSNorm(2, 0.0, offset)
        assert norm.weight.tolist() == [1 - offset] * 2
        assert norm(x)[0].tolist() == pytest.approx([3 / math.sqrt(12.5), 4 / math.sqrt(12.5)])


def test_epsilon_keeps_zero_at_zero():
    assert RMSNorm(4, 1e-6)(torch.zeros(1, 4)).tolist() == [[0.0] * 4]


def test_dyt_by_hand():
    """weight tanh(alpha x) + bias, with alpha 0.5 at the start: tanh(0.5 * 2) at x = 2."""
    dyt = DyT(2, 1e-6)
    with torch.no_grad():
        dyt.weight.copy_(torch.tensor([1.0, 3.0]))
        dyt.bias.copy_(torch.tensor([0.0, 1.0]))
    assert dyt(torch.tensor([[2.0, -2.0]]))[0].tolist() == pytest.approx([math.tanh(1), 1 - 3 * math.tanh(1)])


@pytest.mark.parametrize("bias", [False, True])
def test_mlp_is_down_of_gate_times_up(bias):
    torch.manual_seed(0)
    mlp = MLP(3, 5, "silu", bias)
    x = torch.randn(4, 3)
    w = dict(mlp.named_parameters())
    assert len(w) == (6 if bias else 3)

    def linear(name, value):
        return value @ w[f"{name}.weight"].T + (w[f"{name}.bias"] if bias else 0)

    gate = linear("gate_proj", x)
    expected = linear("down_proj", gate * torch.sigmoid(gate) * linear("up_proj", x))
    out, router_logits = mlp(x)
    torch.testing.assert_close(out, expected)
    assert router_logits is None


def by_hand_router(normalise):
    """Logits ln 1, ln 2, ln 5 for every token: probabilities 1/8, 2/8, 5/8."""
    router = Router(1, Experts(count=3, top_k=2, width=4, normalise=normalise))
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[1.0], [2.0], [5.0]]).log())
    return router(torch.ones(1, 1))


def test_the_router_takes_the_most_probable_and_divides_only_if_asked():
    logits, weights, chosen = by_hand_router(normalise=False)
    assert chosen.tolist() == [[2, 1]]
    assert weights[0].tolist() == pytest.approx([5 / 8, 2 / 8])
    assert logits[0].exp().tolist() == pytest.approx([1, 2, 5])
    _, weights, _ = by_hand_router(normalise=True)
    assert weights[0].tolist() == pytest.approx([5 / 7, 2 / 7])


@pytest.mark.parametrize("normalise", [False, True])
def test_a_mixture_is_the_weighted_sum_of_its_experts(normalise):
    torch.manual_seed(0)

    class Config:
        width, activation = 3, "silu"

    mixture = MixtureOfExperts(Config, Experts(5, 2, 4, normalise))  # type: ignore[arg-type]
    with torch.no_grad():
        mixture.gate.weight.mul_(100)
    x = torch.randn(20, 3, requires_grad=True)
    out, logits = mixture(x)
    rows = []
    for token in x:
        p = (token @ mixture.gate.weight.T).softmax(-1)
        best = sorted(range(5), key=lambda e: -p[e])[:2]
        total = sum(p[e] for e in best) if normalise else 1
        rows.append(sum(p[e] / total * mixture.experts[e](token[None])[0][0] for e in best))
    torch.testing.assert_close(out, torch.stack(rows))
    torch.testing.assert_close(logits, x @ mixture.gate.weight.T)
    weight = mixture.gate.weight
    [ours] = torch.autograd.grad(out.square().sum(), weight, retain_graph=True)
    [theirs] = torch.autograd.grad(torch.stack(rows).square().sum(), weight)
    torch.testing.assert_close(ours, theirs)


def test_an_expert_nobody_chose_costs_nothing_and_breaks_nothing():
    class Config:
        width, activation = 1, "silu"

    mixture = MixtureOfExperts(Config, Experts(3, 1, 2, False))  # type: ignore[arg-type]
    with torch.no_grad():
        mixture.gate.weight.copy_(torch.tensor([[0.0], [9.0], [0.0]]))
    out, _ = mixture(torch.ones(4, 1))
    out.sum().backward()
    gradients = [expert.down_proj.weight.grad for expert in mixture.experts]
    assert all(g is None or g.abs().sum() == 0 for g in (gradients[0], gradients[2]))
    assert gradients[1].abs().sum() > 0


def test_router_losses_by_hand():
    """Two tokens, two experts, top 1. Logits (ln 3, 0) and (ln 4, 0): both choose expert 0.

    f = (1, 0); P_0 = (3/4 + 4/5) / 2 = 0.775; balance = 2 (1 * 0.775 + 0 * 0.225) = 1.55.
    logsumexp = ln 4 and ln 5; z = (ln^2 4 + ln^2 5) / 2.
    """
    logits = torch.tensor([[3.0, 1.0], [4.0, 1.0]]).log()
    losses = router_losses((logits,), top_k=1)
    assert losses["balance"].item() == pytest.approx(1.55)
    assert losses["z"].item() == pytest.approx((math.log(4) ** 2 + math.log(5) ** 2) / 2)
    by_layers = router_losses((logits[:1], logits[1:]), top_k=1)  # layers are pooled like tokens
    assert by_layers["balance"].item() == pytest.approx(1.55)


@pytest.mark.parametrize(("experts", "top_k"), [(4, 1), (6, 2), (8, 8)])
def test_perfectly_even_routing_gives_k(experts, top_k):
    turns = [torch.roll(torch.eye(experts)[:top_k].sum(0), shift) for shift in range(experts)]
    losses = router_losses((torch.stack(turns) * 3,), top_k)
    assert losses["balance"].item() == pytest.approx(top_k)


def test_everything_to_one_expert_gives_their_number():
    assert router_losses((torch.tensor([[50.0, 0, 0, 0]] * 7),), 1)["balance"].item() == pytest.approx(4)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_balance_is_that_of_transformers_with_its_gradient(top_k):
    generator = torch.Generator().manual_seed(top_k)
    layers = [(torch.randn(11, 5, generator=generator) * 2).requires_grad_() for _ in range(3)]
    ours = router_losses(tuple(layers), top_k)["balance"]
    theirs = load_balancing_loss_func(tuple(layers), 5, top_k)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, layers), torch.autograd.grad(theirs, layers), strict=True):
        torch.testing.assert_close(a, b)


def test_descending_the_losses_evens_the_routing_and_shrinks_the_logits():
    logits = torch.tensor([[4.0, 0.0, 1.0], [3.0, 1.0, 0.0]], requires_grad=True)
    losses = router_losses((logits,), 1)
    [balance] = torch.autograd.grad(losses["balance"], logits, retain_graph=True)
    assert (balance[:, 0] > 0).all() and (balance[:, 1:] < 0).all()
    [z] = torch.autograd.grad(losses["z"], logits)
    assert (z > 0).all()
    torch.testing.assert_close(z, logits.logsumexp(-1, keepdim=True) * F.softmax(logits, -1))


def test_router_losses_of_bf16_logits_are_float32():
    logits = torch.randn(9, 4).bfloat16()
    losses = router_losses((logits,), 2)
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert losses["z"].item() == pytest.approx(router_losses((logits.float(),), 2)["z"].item())
