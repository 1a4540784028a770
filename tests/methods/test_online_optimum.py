"""Where online preference learning ends, enumerated: pairs drawn from the policy itself, picked by rung's own rule.

Answers y of one token, each pair of them drawn with pi(y) pi(y'). With h = log(pi / start), up to a constant:

DPO, labels as Bradley-Terry says of a reward r: each pair's loss is least at beta (h_y - h_y') = r_y - r_y', so the
end is start exp(r / beta) / Z, wherever the pairs come from.

IPO, the better answer always picked: the gradient is 0 where for every y
    sum over y' of pi(y') (h_y - h_y' - s / (2 beta)) = 0,      s = 1 if y beats y', -1 if it loses, 0 for y' = y
so h_y = E[s | y] / (2 beta) + constant: start exp(P(y beats one drawn from pi) / beta) / Z, its own like counting half.
The reward's size is not in it, and pi stands on both sides: the answer to beat is the policy's own.
"""

from functools import cache, partial

import numpy as np
import pytest
import torch

from rung.batch import Rollout, TokenScores, collate_pairs, prediction_sites
from rung.methods.dpo import dpo
from rung.methods.ipo import ipo
from rung.rewards.score import Score
from rung.rollouts.columns import Graded
from rung.sources.online_pairs import paired, pairs_of

START = np.array([0.4, 0.3, 0.2, 0.1])
REWARD = np.array([0.0, 0.6, 0.2, 1.0])
BETA = 0.5


def answer(which: int, group: int, value: float) -> Graded:
    one = np.zeros(1, np.float32)
    ids = np.array([10 + which], np.int32)
    rollout = Rollout(
        "t",
        group,
        np.array([1, 2], np.int32),
        ids,
        np.ones(1, bool),
        one,
        one,
        one,
        np.zeros(1, np.int32),
        "stop",
    )
    return Graded(rollout, Score(value), one)


def picked(rewards) -> list[tuple[int, int]]:
    """(winner, loser) of every ordered draw of two answers, as the source makes its pairs; ties are gone."""
    draws = [(i, j) for i in range(4) for j in range(4)]
    played = []
    for group, (i, j) in enumerate(draws):
        first, second = rewards(i, j)
        played += [answer(i, group, first), answer(j, group, second)]
    return [
        tuple(int(e.token_ids[-1]) - 10 for e in (p.chosen, p.rejected)) for p in pairs_of(paired(played))
    ]


def expected_loss(method, theta: torch.Tensor, pairs, chance) -> torch.Tensor:
    """Sum over pairs of pi(winner) pi(loser) chance(winner, loser) loss; the draw itself carries no gradient."""
    logprob = theta.log_softmax(0)
    pi = logprob.detach().exp()
    total = torch.zeros((), dtype=torch.float64)
    for winner, loser in sorted(set(pairs)):
        batch = batch_of(winner, loser)
        scores = TokenScores(logprob[[winner, loser]], documents(batch))
        times = pairs.count((winner, loser))
        total = total + times * chance(winner, loser) * pi[winner] * pi[loser] * method(scores, batch).sum
    return total


@cache
def batch_of(winner: int, loser: int):
    (pair,) = pairs_of(paired([answer(winner, 0, 1.0), answer(loser, 0, 0.0)]))
    batch = collate_pairs([pair])
    column = torch.zeros(len(batch.token_ids_N), dtype=torch.float64)
    column[prediction_sites(batch)[1]] = torch.tensor(np.log(START[[winner, loser]]))
    batch.columns["reference_logprob"] = column
    return batch


def documents(batch):
    document_N = torch.repeat_interleave(torch.arange(len(batch)), torch.tensor(batch.lengths))
    return document_N[prediction_sites(batch)[1]]


def gradient(method, policy, pairs, chance) -> np.ndarray:
    theta = torch.tensor(np.log(policy), requires_grad=True)
    (found,) = torch.autograd.grad(expected_loss(method, theta, pairs, chance), theta)
    return found.numpy()


def descend(method, pairs, chance, rate, steps=250) -> np.ndarray:
    theta = torch.tensor(np.log(START), requires_grad=True)
    for _ in range(steps):
        (found,) = torch.autograd.grad(expected_loss(method, theta, pairs, chance), theta)
        with torch.no_grad():
            theta -= rate * found
    return theta.detach().softmax(0).numpy()


def bradley_terry(winner, loser):
    return 1 / (1 + np.exp(REWARD[loser] - REWARD[winner]))


def both_orders():
    """A noisy judge: every draw of two different answers with either of them picked."""
    return [*picked(lambda i, j: (1.0, 0.0)), *picked(lambda i, j: (0.0, 1.0))]


def tilted(exponent):
    weight = START * np.exp(exponent)
    return weight / weight.sum()


def self_play() -> np.ndarray:
    """IPO's end by damped iteration of its condition."""
    policy = START
    for _ in range(500):
        wins = np.array([(policy * (np.sign(r - REWARD) + 1) / 2).sum() for r in REWARD])
        policy = 0.7 * policy + 0.3 * tilted(wins / BETA)
    return policy


def sure(winner, loser):
    return 1.0


def test_ties_make_no_pair_and_every_other_draw_makes_one():
    tied = np.array([0.0, 0.6, 0.6, 1.0])
    found = picked(lambda i, j: (tied[i], tied[j]))
    assert len(found) == 16 - 4 - 2 and all(tied[winner] > tied[loser] for winner, loser in found)


CASES = {
    "dpo": (partial(dpo, beta=BETA), both_orders(), bradley_terry, tilted(REWARD / BETA), 10.0),
    "ipo": (partial(ipo, beta=BETA), picked(lambda i, j: (REWARD[i], REWARD[j])), sure, self_play(), 1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_the_end_is_the_one_that_was_derived(name):
    method, pairs, chance, optimum, rate = CASES[name]
    assert np.abs(gradient(method, optimum, pairs, chance)).max() < 1e-6
    assert np.abs(gradient(method, START, pairs, chance)).max() > 1e-2
    assert np.abs(np.log(descend(method, pairs, chance, rate) / optimum)).max() < 1e-3
