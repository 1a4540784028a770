"""The numbers of a round, by hand."""

import math

import numpy as np
import pytest

from rung.batch import Rollout
from rung.diagnose.facts import facts_of, measured_mismatch, repetition, round_facts, spread
from rung.metrics import metric_of
from rung.rewards.score import Abstain, Failure, Score
from rung.rollouts.store import Graded


def graded(
    group, verdict, ids, entropy=1.0, finish="stop", by_model=None, old=None, version=0, logprob=-1.0
) -> Graded:
    length = len(ids)
    own = np.ones(length, bool) if by_model is None else np.array(by_model)
    rollout = Rollout(
        task=f"t:{group}",
        group=group,
        prompt_ids=np.zeros(2, np.int32),
        token_ids=np.array(ids, np.int32),
        by_model=own,
        sampler_logprob=np.full(length, -9, np.float32),
        policy_logprob=np.full(length, logprob, np.float32),
        entropy=np.where(own, entropy, 100).astype(np.float32),
        version=np.full(length, version, np.int32),
        finish=finish,
    )
    return Graded(
        rollout, verdict, np.zeros(length, np.float32), None, None if old is None else np.float32(old)
    )


ROUND = [
    graded(0, Score(1.0, {"correct": 1.0, "format": 0.0}), [1, 2, 3], entropy=2.0),
    graded(0, Score(0.0, {"correct": 0.0, "format": 1.0}), [1] * 7, finish="length"),
    graded(1, Score(1.0, {"correct": 1.0}), [1, 2], by_model=[True, False]),
    graded(1, Score(1.0, {"correct": 1.0}), [], finish="abort"),
    graded(2, Failure("timeout"), [4, 5]),
    graded(2, Abstain("a tie"), [6]),
]


def test_metrics_of_a_round():
    metrics = round_facts(ROUND)
    expected = {
        "reward": 0.75,  # of the four that have one
        "reward/correct": 0.75,
        "reward/format": 0.5,  # of the two that have this part
        "reward_std": 0.25,  # 0.5 in group 0, 0 in group 1; group 2 has none
        "reward_failures": 1 / 6,
        "reward_abstains": 1 / 6,
        "solved_groups": 1 / 3,
        "dead_groups": 2 / 3,  # all alike, or nobody scored
        "response_length": (3 + 7 + 1 + 0 + 2 + 1) / 6,  # the environment's token does not count
        "response_length_max": 7,
        "truncated_share": 1 / 6,
        "repetition": (3 / 4) / 6,  # seven ones hold four 4-grams, three of them seen before
        "rollout_entropy": (2 + 1 + 1 + 1 + 1) / 5,  # the one without a token has none
    }
    assert metrics == pytest.approx(expected)
    assert all(metric_of(name) is not None for name in metrics)


def test_what_cannot_be_said_is_left_out():
    metrics = round_facts([graded(0, Failure("crash"), [])])
    assert "reward" not in metrics and "rollout_entropy" not in metrics and metrics["dead_groups"] == 1
    assert round_facts([]) == {}
    assert round_facts([graded(0, Score(0.9), [1])], full=0.9)["solved_groups"] == 1


def test_facts_of_a_round():
    facts = facts_of(3, ROUND, heldout=[1, 0, 0.5], kl=0.1)
    assert (facts.round, facts.failures, facts.heldout, facts.kl) == (3, 1 / 6, (1.0, 0.0, 0.5), 0.1)
    assert [group.rewards for group in facts.groups] == [(1.0, 0.0), (1.0, 1.0), ()]
    assert [group.dead for group in facts.groups] == [False, True, True]
    assert (
        facts.groups[0].entropy == 1.5 and facts.groups[0].truncated == 0.5 and facts.groups[1].length == 0.5
    )
    assert facts.groups[0].repetition == 0.375 and facts.mismatch is None
    assert facts.parts == {"correct": 0.75, "format": 0.5}
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        facts_of(0, [], heldout=[1.5])


def test_repetition():
    assert repetition([1, 2, 3]) == 0 == repetition(range(50)) == repetition([])
    assert repetition([1, 2] * 10) == pytest.approx(15 / 17)
    assert repetition([5] * 1003) == pytest.approx(0.999)


def test_equal_but_for_the_last_bits_is_equal():
    assert spread([0.1 + 0.2, 0.3]) == 0.0 == spread([1e9 + 1e-7, 1e9])
    assert spread([0.3, 0.30001]) > 0


def test_mismatch_by_hand():
    """The trainer gives half the sampler's probability: r - 1 - log r = 0.5 - 1 + log 2."""
    old = [-1 + math.log(0.5)] * 2
    assert measured_mismatch([graded(0, Score(1), [1, 2], old=old)]) == pytest.approx(
        math.log(2) - 0.5, rel=1e-5
    )
    agreeing = graded(0, Score(1), [1, 2], old=[-1, -1])
    assert measured_mismatch([agreeing]) == 0.0
    # the environment's tokens and those of older weights do not count
    old_weights = graded(0, Score(1), [1, 2], old=[-5, -5], version=3)
    newer = graded(0, Score(1), [1, 2], old=[-1, -7], version=4, by_model=[True, False])
    assert measured_mismatch([old_weights, newer]) == 0.0
    assert measured_mismatch([graded(0, Score(1), [1])]) is None
