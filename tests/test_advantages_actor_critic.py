"""Credit with a critic: limits of GAE, the KL in the reward, dense rewards, costs and their multiplier."""

from dataclasses import replace

import numpy as np
import pytest

from rung.advantages.actor_critic import adapt_multiplier, critic_credit
from rung.advantages.assign import Round, assign
from rung.advantages.recipes import RECIPES
from rung.advantages.returns import whiten

LENGTHS = (3, 2)
OWN = np.array([1, 1, 1, 1, 1], bool)
VALUE = np.array([0.5, -1.0, 2.0, 0.25, 0.75])
K1 = np.array([0.5, 0.0, 2.0, -1.0, 1.0])
REWARD = np.array([1.0, -2.0])
PPO = replace(RECIPES["ppo"], whiten=False)


def round_of(**parts) -> Round:
    given = dict(
        reward_R=REWARD, group_R=np.array([0, 1]), truncated_R=np.array([False, True]), lengths=LENGTHS,
        by_model_N=OWN, logprob_N=np.full(5, -1.0), reference_N=-1.0 - K1, value_N=VALUE,
    )  # fmt: skip
    return Round(**(given | parts))


def with_gae(discount: float, trace: float, **parts):
    return replace(PPO, estimator_options={"discount": discount, "trace": trace}, **parts)


def test_trace_1_is_monte_carlo():
    """What is still to come less what was expected; at beta 0.1 the first answer is paid -0.05, 0, 0.8."""
    columns = assign(with_gae(1.0, 1.0, reward_beta=0.1), round_of()).columns
    to_come = np.array([0.75, 0.8, 0.8, -2.0, -2.1])
    assert columns["return_value"] == pytest.approx(to_come)
    assert columns["advantage"] == pytest.approx(to_come - VALUE)
    assert columns["old_value"].tolist() == VALUE.tolist()


def test_trace_0_is_one_step_of_temporal_difference():
    """r_t + 0.5 V_{t+1} - V_t."""
    columns = assign(with_gae(0.5, 0.0, reward_beta=0.1), round_of()).columns
    expected = [-0.05 - 0.5 - 0.5, 0 + 1 + 1, 0.8 - 2, 0.1 + 0.375 - 0.25, -2.1 - 0.75]
    assert columns["advantage"] == pytest.approx(expected)


def test_whitening_leaves_the_returns_alone():
    plain, white = (assign(replace(PPO, whiten=w), round_of()).columns for w in (False, True))
    assert white["advantage"] == pytest.approx(whiten(plain["advantage"], OWN))
    assert white["advantage"].mean() == pytest.approx(0)
    assert white["return_value"].tolist() == plain["return_value"].tolist()


def test_a_critic_that_knows_everything_leaves_no_advantage():
    recipe = with_gae(1.0, 1.0, reward_beta=0.0)
    exact = np.array([1.0, 1.0, 1.0, -2.0, -2.0])
    assert assign(recipe, round_of(value_N=exact)).columns["advantage"].tolist() == [0.0] * 5


def test_an_answer_that_was_cut_off_pays():
    recipe = with_gae(1.0, 1.0, reward_beta=0.0, missing_end_penalty=1.5)
    assert assign(recipe, round_of()).columns["return_value"].tolist() == [1, 1, 1, -3.5, -3.5]


def test_answers_without_a_score_teach_nobody():
    credit = assign(RECIPES["ppo"], round_of(reward_R=np.array([1.0, np.nan])))
    assert credit.kept_R.tolist() == [True, False]
    assert credit.columns["weight"].tolist() == [1, 1, 1, 0, 0]
    assert np.isfinite(credit.columns["return_value"]).all()
    assert credit.columns["advantage"][:3].mean() == pytest.approx(0)


def test_tokens_of_the_world_are_stepped_over():
    """The reward comes at the model's last token; the value at the world's token is nobody's."""
    own = np.array([1, 0, 1, 1, 0], bool)
    columns = assign(with_gae(1.0, 0.0, reward_beta=0.0), round_of(by_model_N=own)).columns
    assert columns["advantage"] == pytest.approx([2.0 - 0.5, 0, 1 - 2, -2 - 0.25, 0])
    assert columns["old_value"].tolist() == [0.5, 0, 2.0, 0.25, 0]


# ---- dense rewards (RTO) ----


def test_the_dpo_policy_pays_each_token_within_its_limit():
    """0.5 times the log-ratio, at most 0.3 in size: 0.1, -0.3, 0.3, 0, 0.05; then everything to come."""
    recipe = with_gae(1.0, 1.0, reward_beta=0.0, dense_weight=0.5, dense_limit=0.3)
    assert recipe.needs_reference
    dense = np.array([0.2, -4.0, 5.0, 0.0, 0.1])
    columns = assign(recipe, round_of(dense_N=dense)).columns
    assert columns["return_value"] == pytest.approx([1.1, 1.0, 1.3, -1.95, -1.95])


def test_dense_pay_alone_sums_to_the_log_ratio_of_the_answer():
    recipe = with_gae(1.0, 1.0, reward_beta=0.0, dense_weight=1.0, dense_limit=9.0)
    dense = np.array([0.2, -4.0, 5.0, 0.0, 0.1])
    columns = assign(recipe, round_of(dense_N=dense, reward_R=np.zeros(2))).columns
    assert columns["return_value"][[0, 3]] == pytest.approx([1.2, 0.1])


# ---- costs (Safe RLHF) ----


def test_cost_and_reward_are_weighed_by_the_multiplier():
    """beta 0.2 with half of the KL each; trace 1 and critics of 0: A_R and A_C are what is to come of each."""
    recipe = with_gae(1.0, 1.0, reward_beta=0.2, multiplier=3.0)
    parts = dict(value_N=np.zeros(5), cost_value_N=np.zeros(5), cost_R=np.array([2.0, -1.0]))
    columns = assign(recipe, round_of(**parts)).columns
    kl_to_come = np.array([2.5, 2.0, 2.0, 0.0, 1.0])
    gain = np.array([1, 1, 1, -2, -2]) - 0.1 * kl_to_come
    cost = np.array([2, 2, 2, -1, -1]) + 0.1 * kl_to_come
    assert columns["return_value"] == pytest.approx(gain)
    assert columns["return_cost"] == pytest.approx(cost)
    assert columns["advantage"] == pytest.approx((gain - 3 * cost) / 4)
    assert columns["old_cost"].tolist() == [0] * 5


def test_the_reward_may_bear_all_of_the_kl():
    recipe = with_gae(1.0, 1.0, reward_beta=0.2, multiplier=1.0, kl_share=1.0)
    parts = dict(value_N=np.zeros(5), cost_value_N=np.zeros(5), cost_R=np.array([2.0, -1.0]))
    columns = assign(recipe, round_of(**parts)).columns
    assert columns["return_cost"] == pytest.approx([2, 2, 2, -1, -1])
    assert columns["return_value"][0] == pytest.approx(1 - 0.2 * 2.5)


def test_the_multiplier_moves_in_log_space_and_stays_within_its_bounds():
    """log m + 0.1 m (cost - limit): from 2, a cost of 1.5 over a limit of 0.5 gives 2 e^0.2."""
    assert adapt_multiplier(2.0, 1.5, limit=0.5, rate=0.1) == pytest.approx(2 * np.exp(0.2))
    assert adapt_multiplier(2.0, -0.5, limit=0.5, rate=0.1) == pytest.approx(2 * np.exp(-0.2))
    assert adapt_multiplier(2.0, 0.5, limit=0.5) == pytest.approx(2.0)
    assert adapt_multiplier(4.9, 10.0, largest=5.0) == 5.0
    small = 1.0
    for _ in range(500):
        small = adapt_multiplier(small, -3.0)
    assert 0 < small < 0.02


def test_a_cost_of_thousands_moves_the_multiplier_as_far_as_a_float_goes():
    low = adapt_multiplier(1.0, -1e6)
    assert 0 < low < 1e-300 and adapt_multiplier(low, 0.0) == pytest.approx(low)
    assert adapt_multiplier(1.0, 1e6) == 5.0


def test_the_multiplier_settles_where_the_constraint_is_just_kept():
    """Two arms, (reward, cost) = (1, 1) and (0, -1): at multiplier m the better one is the first while m < 1/2, so a
    softmax policy with KL weight b ends at mean cost 0, where (1 - 2 m) / b = 0."""
    multiplier, theta = 1.0, 0.0
    for _ in range(20_000):
        first = 1 / (1 + np.exp(-theta))
        cost = 2 * first - 1
        theta += 0.05 * ((1 - 2 * multiplier) - 0.2 * theta) * first * (1 - first)
        multiplier = adapt_multiplier(multiplier, cost, rate=0.01)
    assert cost == pytest.approx(0, abs=1e-3)
    assert multiplier == pytest.approx(0.5, abs=1e-3)


def test_credit_counts_nan_as_nothing():
    advantage, columns = critic_credit(
        with_gae(1.0, 1.0), np.array([np.nan, 1.0]), np.zeros(5), LENGTHS, OWN, np.zeros(5)
    )
    assert advantage.tolist() == columns["return_value"].tolist() == [0, 0, 0, 1, 1]
    both = (np.zeros(5), None, np.array([np.nan, 2.0]), np.zeros(5))
    recipe = with_gae(1.0, 1.0, multiplier=1.0)
    advantage, columns = critic_credit(recipe, np.array([np.nan, 1.0]), np.zeros(5), LENGTHS, OWN, *both)
    assert columns["return_cost"].tolist() == [0, 0, 0, 2, 2] and advantage.tolist() == [0, 0, 0, -0.5, -0.5]
