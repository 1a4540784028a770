"""Recipes: each method's parts as data, every one of them changeable, applied to a round of rollouts."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from rung.advantages import groups
from rung.advantages.assign import Round, assign
from rung.advantages.recipes import RECIPES
from rung.advantages.returns import whiten
from rung.methods import NAMES
from rung.schema import leaves, method_settings

NAN = np.nan
# Two prompts with two answers each, one answer with a tool's token in it, the last one cut off.
LENGTHS = (2, 3, 1, 2)
ROUND = Round(
    reward_R=np.array([1.0, 0.0, 0.5, 1.0]),
    group_R=np.array([0, 0, 1, 1]),
    truncated_R=np.array([False, False, False, True]),
    lengths=LENGTHS,
    by_model_N=np.array([1, 1, 1, 0, 1, 1, 1, 1], bool),
    greedy_R=np.array([0.25, 0.25, 1.0, 1.0]),
    logprob_N=np.array([-1.0, -2.0, -1.0, 0.0, -1.0, -0.5, -1.0, -3.0]),
    reference_N=np.array([-1.5, -2.0, -3.0, 0.0, -1.0, -0.5, -2.0, -3.0]),
    entropy_N=np.array([0.5, 0.1, 0.9, 9.0, 0.2, 0.3, 0.4, 0.8]),
    hidden_ND=np.arange(16, dtype=np.float32).reshape(8, 2),
    value_N=np.zeros(8),
)
K1 = [0.5, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def test_the_names_cost_nothing():
    code = "import sys; import rung.advantages.recipes, rung.methods; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_a_loss_with_options_it_has_and_can_be_applied(name):
    recipe = RECIPES[name]
    assert recipe.loss in NAMES
    own = leaves(method_settings(f"rung.methods.{recipe.loss}", recipe.loss))
    parts = leaves(method_settings("rung.methods.policy_gradient", "policy_gradient"))
    assert recipe.loss_options.keys() <= own.keys() | parts.keys()
    credit = assign(recipe, ROUND)
    assert {"advantage", "weight"} <= credit.columns.keys()
    assert all(len(column) == 8 and np.isfinite(column).all() for column in credit.columns.values())
    assert all(column[3] == 0 for column in credit.columns.values())  # the tool's token


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("reward", [[NAN, 0.0, 0.5, 1.0], [NAN] * 4], ids=["one", "all"])
def test_rollouts_without_a_score_do_not_train_and_spoil_nothing(name, reward):
    credit = assign(RECIPES[name], replace(ROUND, reward_R=np.array(reward)))
    assert not credit.kept_R[0]
    assert all(np.isfinite(column).all() for column in credit.columns.values())
    assert all((column[:2] == 0).all() for column in credit.columns.values())


@pytest.mark.parametrize("name", RECIPES)
def test_a_part_that_is_not_needed_is_not_read(name):
    recipe = RECIPES[name]
    bare = replace(
        ROUND, greedy_R=None, logprob_N=None, reference_N=None, entropy_N=None, hidden_ND=None, value_N=None
    )
    given = {
        "greedy_R": recipe.needs_greedy,
        "entropy_N": recipe.needs_entropy,
        "hidden_ND": recipe.needs_hidden,
        "logprob_N": recipe.needs_hidden or recipe.needs_reference,
        "reference_N": recipe.needs_reference,
        "value_N": recipe.needs_critic,
    }
    enough = replace(bare, **{part: getattr(ROUND, part) for part, needed in given.items() if needed})
    columns = assign(recipe, enough).columns
    for part, column in assign(recipe, ROUND).columns.items():
        assert columns[part].tolist() == column.tolist()
    if recipe.needs_greedy or recipe.needs_entropy or recipe.needs_hidden or recipe.needs_critic:
        with pytest.raises(ValueError, match="not given"):
            assign(recipe, bare)


def test_grpo_and_dr_grpo_by_hand():
    """Advantages +-1/2 and -+1/4 from the mean; over the sample deviation both are +-1/sqrt(2)."""
    credit = assign(RECIPES["dr_grpo"], ROUND)
    assert credit.columns["advantage"].tolist() == [0.5, 0.5, -0.5, 0, -0.5, -0.25, 0.25, 0.25]
    assert credit.columns["weight"].tolist() == [1, 1, 1, 0, 1, 1, 1, 1]
    root = 2**-0.5
    expected = [root, root, -root, 0, -root, -root, root, root]
    assert assign(RECIPES["grpo"], ROUND).columns["advantage"] == pytest.approx(expected, rel=1e-5)


def test_rloo_takes_the_kl_of_the_whole_answer_off_the_reward():
    """KL 0.5 and 2; 0 and 1: at 0.1 rewards 0.95, -0.2 and 0.5, 0.9, each minus the other."""
    credit = assign(replace(RECIPES["rloo"], reward_beta=0.1), ROUND)
    assert credit.advantage_R == pytest.approx([1.15, -1.15, -0.4, 0.4])
    assert credit.columns["advantage"] == pytest.approx([1.15, 1.15, -1.15, 0, -1.15, -0.4, 0.4, 0.4])
    without = assign(replace(RECIPES["rloo"], reward_beta=0.0), ROUND)
    assert without.advantage_R.tolist() == groups.leave_one_out(ROUND.reward_R, ROUND.group_R).tolist()


def test_remax_counts_the_kl_still_to_come():
    """R - greedy = 0.75, -0.25, -0.5, 0; minus 0.1 times the k1 from the token on."""
    credit = assign(replace(RECIPES["remax"], reward_beta=0.1), ROUND)
    assert credit.columns["advantage"] == pytest.approx([0.7, 0.75, -0.45, 0, -0.25, -0.5, -0.1, 0])


def test_reinforce_plus_plus_whitens_returns_over_the_batch():
    credit = assign(replace(RECIPES["reinforce_plus_plus"], reward_beta=0.1), ROUND)
    to_come = np.array([0.95, 1.0, -0.2, 0, 0.0, 0.5, 0.9, 1.0])
    assert credit.columns["advantage"] == pytest.approx(whiten(to_come, ROUND.by_model_N))
    baseline = assign(RECIPES["reinforce_plus_plus_baseline"], ROUND).columns["advantage"]
    centred = np.array([0.5, 0.5, -0.5, 0, -0.5, -0.25, 0.25, 0.25])
    assert baseline == pytest.approx(whiten(centred, ROUND.by_model_N))


def test_dapo_drops_groups_without_signal_and_answers_that_were_cut_off():
    assert assign(RECIPES["dapo"], ROUND).kept_R.tolist() == [True, True, True, False]
    equal = replace(ROUND, reward_R=np.array([1.0, 1.0, 0.5, 1.0]))
    credit = assign(RECIPES["dapo"], equal)
    assert credit.kept_R.tolist() == [False, False, True, False]
    assert credit.columns["weight"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    accuracy = np.array([1.0, 0.0, 1.0, 1.0])  # not the reward, which a length penalty may have moved
    assert assign(RECIPES["dapo"], equal, signal_R=accuracy).kept_R.tolist() == [True, True, False, False]
    assert assign(RECIPES["grpo"], equal).kept_R.all()


def test_quantiles_are_of_the_tokens_that_train():
    """A tool's token of entropy 9 does not move the threshold."""
    recipe = replace(RECIPES["grpo"], token_credit="entropy_mask", credit_options={"share": 2 / 7})
    assert np.flatnonzero(assign(recipe, ROUND).columns["advantage"]).tolist() == [2, 7]


def test_decisions_and_delta_write_their_columns():
    credit = assign(replace(RECIPES["reason_maxxer"], credit_options={"threshold": 0.8}), ROUND)
    assert credit.columns["decision"].tolist() == [0, 0, 1, 0, 0, 0, 0, 1]
    assert credit.columns["weight"] == pytest.approx([0.4, 0.4, 1, 0, 0.4, 0.4, 0.4, 1])
    weight = assign(RECIPES["delta"], ROUND).columns["weight"]
    assert weight[ROUND.by_model_N].mean() == pytest.approx(1, rel=1e-5)
    assert len(set(weight.round(6))) > 2


def test_every_part_can_be_changed():
    changed = replace(RECIPES["grpo"], estimator="leave_one_out", token_credit="entropy_shaped", loss="gspo")
    credit = assign(changed, ROUND)
    assert credit.advantage_R.tolist() == [1, -1, -0.5, 0.5]
    assert credit.columns["advantage"] == pytest.approx([1.2, 1.04, -0.64, 0, -0.92, -0.38, 0.66, 0.75])
