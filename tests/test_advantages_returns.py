"""Rewards along an answer: GAE's closed forms, whitening, process rewards, the KL controller."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.advantages import returns as r

ALL = np.ones(4, bool)
REWARD, VALUE = np.array([0.5, 0.0, -1.0, 2.0]), np.array([0.1, 0.4, -0.2, 0.3])


def one(reward, value, by_model=ALL, bootstrap=0.0, **options):
    options = {"discount": 0.9, "trace": 0.8} | options
    return r.gae(reward, value, [len(reward)], by_model, bootstrap_R=np.array([bootstrap]), **options)


def test_gae_by_hand_over_two_tokens():
    """delta_1 = 2 - 1 = 1; delta_0 = 0 + 0.5 * 1 - 3 = -2.5; A_0 = -2.5 + 0.5 * 0.5 * 1."""
    options = dict(discount=0.5, trace=0.5)
    advantage, target = one(np.array([0.0, 2.0]), np.array([3.0, 1.0]), ALL[:2], **options)
    assert advantage.tolist() == [-2.25, 1]
    assert target.tolist() == [0.75, 2]


def test_trace_zero_is_the_one_step_error():
    advantage, _ = one(REWARD, VALUE, trace=0.0, bootstrap=0.7)
    assert advantage == pytest.approx(REWARD + 0.9 * np.append(VALUE[1:], 0.7) - VALUE)


def test_trace_one_is_the_discounted_return_minus_the_value():
    advantage, target = one(REWARD, VALUE, trace=1.0, bootstrap=0.7)
    ahead = [sum(0.9 ** (u - t) * REWARD[u] for u in range(t, 4)) + 0.9 ** (4 - t) * 0.7 for t in range(4)]
    assert advantage == pytest.approx(np.array(ahead) - VALUE)
    assert target == pytest.approx(ahead)


def test_gae_is_the_geometric_sum_of_errors():
    advantage, target = one(REWARD, VALUE)
    delta = REWARD + 0.9 * np.append(VALUE[1:], 0) - VALUE
    assert advantage == pytest.approx(
        [sum(0.72 ** (u - t) * delta[u] for u in range(t, 4)) for t in range(4)]
    )
    assert target == pytest.approx(advantage + VALUE)


def test_a_perfect_critic_leaves_no_advantage():
    value = np.array([0.9**3 * 2, 0.9**2 * 2, 0.9 * 2, 2.0])
    assert one(np.array([0.0, 0, 0, 2.0]), value)[0] == pytest.approx([0] * 4, abs=1e-12)


def test_environment_tokens_are_stepped_over():
    """With a tool's tokens between, of any value, the model's tokens get what they would without them."""
    plain, target = one(REWARD, VALUE)
    by_model = np.array([1, 1, 0, 0, 0, 1, 1, 0], bool)
    reward, value = np.zeros(8), np.full(8, 99.0)
    reward[by_model], value[by_model] = REWARD, VALUE
    advantage, wider = one(reward, value, by_model)
    assert advantage[by_model] == pytest.approx(plain) and wider[by_model] == pytest.approx(target)
    assert (advantage[~by_model] == 0).all() and (wider[~by_model] == 0).all()


def test_what_the_environment_pays_belongs_to_the_token_before():
    by_model = np.array([True, True, False, True])
    here, _ = one(np.array([0.0, 1.5, 0.0, 0.0]), VALUE, by_model)
    there, _ = one(np.array([0.0, 0.0, 1.5, 0.0]), VALUE, by_model)
    assert there == pytest.approx(here)


def test_documents_do_not_leak():
    reward, value = np.tile(REWARD, 2), np.tile(VALUE, 2)
    both, _ = r.gae(reward, value, [4, 4], np.ones(8, bool), bootstrap_R=np.array([0.7, 0.0]))
    alone = [r.gae(REWARD, VALUE, [4], ALL, bootstrap_R=np.array([b]))[0] for b in (0.7, 0.0)]
    assert both == pytest.approx(np.concatenate(alone))


def test_returns_by_hand():
    """1 + 0.5 * (2 + 0.5 * 4) = 3, then 4, 4; environment tokens do not discount."""
    by_model = np.array([True, False, True, True])
    out = r.returns(np.array([1.0, 0, 2, 4]), [4], by_model, discount=0.5)
    assert out.tolist() == [3, 0, 4, 4]


def test_the_reward_lies_on_the_last_token_the_model_wrote():
    by_model = np.array([1, 1, 0, 0, 1, 1, 0], bool)
    out = r.at_last_token(np.array([5.0, 6.0, 7.0]), [3, 1, 3], by_model)
    assert out.tolist() == [0, 5, 0, 0, 0, 6 + 1, 0]
    assert r.spread(np.array([5.0, 6.0, 7.0]), [3, 0, 2]).tolist() == [5, 5, 5, 7, 7]


def test_kl_in_the_reward_by_hand():
    out = r.kl_penalty(
        np.array([-1.0, -2.0, -3.0]), np.array([-1.5, -1.0, 0.0]), ALL[:3] > [0, 0, 1], beta=0.1
    )
    assert out == pytest.approx([-0.05, 0.1, 0])


def test_the_sum_of_k1_in_the_reward_has_the_gradient_of_the_sequences_kl():
    """By enumeration: two tokens, each a softmax over two that depends on the first; future KL included."""
    torch = pytest.importorskip("torch")
    theta = torch.tensor([[0.3, -0.2], [0.5, 0.1], [-0.7, 0.4]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[0.0, 0.4], [0.2, -0.1], [0.3, 0.9]], dtype=torch.float64).log_softmax(1)
    total, kl = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for a in (0, 1):
        for b in (0, 1):
            states, tokens = [0, 1 + a], [a, b]
            logprob = theta.log_softmax(1)[states, tokens]
            held, other = logprob.detach().numpy(), reference[states, tokens].numpy()
            credit = r.returns(r.kl_penalty(held, other, ALL[:2], beta=1.0), [2], ALL[:2])
            chance = logprob.sum().exp()
            total = total - chance.detach() * (torch.from_numpy(credit) * logprob).sum()
            kl = kl + chance * (logprob - reference[states, tokens]).sum()
    expected = torch.autograd.grad(kl, theta, retain_graph=True)[0].flatten().tolist()
    assert torch.autograd.grad(total, theta)[0].flatten().tolist() == pytest.approx(expected)


def test_whitening_by_hand():
    mask = np.array([True, True, False, True, True])
    out = r.whiten(np.array([1.0, 2.0, 50.0, 3.0, 6.0]), mask, epsilon=0)
    assert out == pytest.approx(np.array([-2, -1, 0, 0, 3]) / 3.5**0.5)
    kept = r.whiten(np.array([1.0, 2.0, 50.0, 3.0, 6.0]), mask, epsilon=0, shift=False)
    assert kept[mask] == pytest.approx(out[mask] + 3)


@given(st.floats(-1e6, 1e6), st.integers(1, 7))
def test_whitening_equal_numbers_gives_exactly_nothing(value, size):
    assert (r.whiten(np.full(size, value), np.ones(size, bool)) == 0).all()
    assert r.whiten(np.full(size, value), np.zeros(size, bool)).tolist() == [0] * size


def test_process_rewards_by_hand():
    """Steps of the group pay 1, 3 and 2: normalised -1, 1 and 0. A token sums the steps ending at it or later."""
    args = ([np.array([1.0, 3.0]), np.array([2.0])], [np.array([1, 3]), np.array([2])])
    out = r.step_advantages(*args, np.array([0, 0]), [5, 3], epsilon=0)
    assert out == pytest.approx([0, 0, 1, 1, 0, 0, 0, 0])


def test_process_rewards_of_one_last_step_each_are_grpo():
    from rung.advantages.groups import group_normalized

    reward, group = np.array([1.0, 0.0, 0.0, 3.0, 4.0]), np.array([0, 0, 0, 1, 1])
    lengths = [2, 3, 1, 2, 2]
    steps, ends = [np.array([x]) for x in reward], [np.array([n - 1]) for n in lengths]
    out = r.step_advantages(steps, ends, group, lengths)
    assert out == pytest.approx(r.spread(group_normalized(reward, group), lengths))


def test_equal_process_rewards_give_exactly_nothing_and_a_lone_step_is_dead():
    steps, ends = (
        [np.array([0.1, 0.1]), np.array([0.1]), np.array([1.0])],
        [np.array([0, 1]), np.array([0]), [0]],
    )
    out = r.step_advantages(steps, ends, np.array([0, 0, 1]), [2, 1, 1])
    assert out[:3].tolist() == [0, 0, 0] and np.isnan(out[3])


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(6.0, 1), (6.6, 1 + 0.1 * 64 / 1000), (60.0, 1 + 0.2 * 64 / 1000), (0.0, 1 - 0.2 * 64 / 1000)],
)
def test_the_controller_by_hand(kl, factor):
    assert r.adapt_beta(0.2, kl, target=6.0, steps=64, horizon=1000) == pytest.approx(0.2 * factor)


def test_a_round_longer_than_the_horizon_moves_it_by_a_fifth_and_never_below_0():
    assert r.adapt_beta(0.2, 0.0, target=6.0, steps=6000, horizon=1000) == pytest.approx(0.16)
    assert r.adapt_beta(0.2, 60.0, target=6.0, steps=6000, horizon=1000) == pytest.approx(0.24)


@given(st.floats(0.5, 20), st.floats(0.01, 5))
def test_the_controller_settles_where_kl_is_the_target(strength, beta):
    """In a world where KL = strength / (1 + beta), whatever it starts from."""
    target = strength / 2
    for _ in range(5000):
        beta = r.adapt_beta(beta, strength / (1 + beta), target=target, steps=100, horizon=1000)
    assert strength / (1 + beta) == pytest.approx(target, rel=0.01)
