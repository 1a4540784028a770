"""Every recipe, from rewards to gradient: in a world small enough to know the truth, expected reward rises.

Answers have up to three tokens; token 1 ends one. Only 0 0 1 is right, and a uniform policy finds it once in
eight. The policy is a softmax per state, the state being how many tokens were written.
"""

import numpy as np
import pytest
import torch
from policy_case import batch_of, scores_of

from rung.advantages.assign import Round, assign
from rung.advantages.recipes import RECIPES
from rung.methods import find

ANSWERS = [(1,), (0, 1), (0, 0, 1), (0, 0, 0)]
REWARD = np.array([0.0, 0.0, 1.0, 0.0])


def token_logprobs(theta_S2: torch.Tensor, answers) -> torch.Tensor:
    states = [state for i in answers for state in range(len(ANSWERS[i]))]
    return theta_S2.log_softmax(1)[states, [token for i in answers for token in ANSWERS[i]]]


def chances(theta_S2: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([token_logprobs(theta_S2, [i]).sum().exp() for i in range(len(ANSWERS))])


def play(recipe, theta_S2, drawn) -> Round:
    lengths = tuple(len(ANSWERS[i]) for i in drawn)
    states = np.concatenate([np.arange(n) for n in lengths])
    now_S2 = theta_S2.detach().log_softmax(1)
    logprob_N = token_logprobs(theta_S2, drawn).detach().numpy()
    greedy = np.argmax([token_logprobs(theta_S2, [i]).sum().item() for i in range(len(ANSWERS))])
    return Round(
        reward_R=REWARD[drawn],
        group_R=np.arange(len(drawn)) // recipe.group_size,
        truncated_R=np.zeros(len(drawn), bool),
        lengths=lengths,
        by_model_N=np.ones(sum(lengths), bool),
        greedy_R=np.full(len(drawn), REWARD[greedy]),
        logprob_N=logprob_N,
        reference_N=np.full(sum(lengths), np.log(0.5)),
        entropy_N=-(now_S2.exp() * now_S2).sum(1).numpy()[states],
        hidden_ND=np.eye(3)[states],
        value_N=np.zeros(sum(lengths)),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_the_right_answer_becomes_likely(name):
    recipe = RECIPES[name]
    options = dict(recipe.loss_options) | ({"max_length": 3} if recipe.loss == "dr_grpo" else {})
    generator = np.random.default_rng(0)
    theta_S2 = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta_S2], lr=0.1)
    before = chances(theta_S2)[2].item()
    for _ in range(60):
        chance = np.array([0.5, 0.25, 0.125, 0.125]) if recipe.offline else chances(theta_S2).numpy()
        drawn = generator.choice(4, size=4 * max(recipe.group_size, 2), p=chance / chance.sum())
        credit = assign(recipe, play(recipe, theta_S2, drawn))
        if not credit.columns["weight"].any():
            continue  # dynamic sampling: every group scored alike
        cuts = np.cumsum([len(ANSWERS[i]) for i in drawn])[:-1]
        names = credit.columns.keys()
        split = [np.split(column, cuts) for column in credit.columns.values()]
        rows = [dict(zip(names, parts, strict=True)) for parts in zip(*split, strict=True)]
        for row in rows:
            row["reference_logprob"] = np.full(len(row["weight"]), np.log(0.5))
        batch = batch_of(rows)
        loss = find(recipe.loss)(scores_of(batch, token_logprobs(theta_S2, drawn)), batch, **options)
        optimizer.zero_grad()
        (loss.sum / loss.count).backward()
        optimizer.step()
    assert before == pytest.approx(1 / 8)
    assert chances(theta_S2)[2].item() > 0.4
