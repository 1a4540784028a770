"""Each finding comes from a trace of its trouble, says what it must, and stays away from healthy ones.

That an honest learner causes no finding over 20 seeds is in test_hacking.py: it runs every rule.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from rung.diagnose.facts import Facts, GroupFacts
from rung.diagnose.health import Health

GROUPS, ATTEMPTS, ONSET = 16, 8, 30


def healthy(rng, number: int) -> Facts:
    """Accuracy climbs from 0.3 to 0.7 over 100 rounds, entropy halves, answers grow by half, all as it should be."""
    progress = min(number / 100, 1)
    groups = []
    for _ in range(GROUPS):
        p = rng.beta(2, 2) ** (1.4 - 1.0 * progress)
        groups.append(
            GroupFacts(
                rewards=tuple((rng.random(ATTEMPTS) < p).astype(float)),
                length=float(rng.normal(100, 10) * (1 + progress / 2)),
                truncated=float(rng.binomial(ATTEMPTS, 0.1) / ATTEMPTS),
                entropy=float(rng.normal(1.0, 0.1) * (1 - progress / 2)),
                repetition=float(rng.beta(2, 20)),
            )
        )
    return Facts(
        number,
        tuple(groups),
        failures=float(rng.binomial(128, 0.01) / 128),
        mismatch=float(rng.gamma(2, 0.002)),
    )


def every_group(**changes):
    return lambda facts: replace(facts, groups=tuple(replace(group, **changes) for group in facts.groups))


TROUBLE = {  # name: (what happens from round ONSET on, rounds within which it must be said, words of the evidence)
    "dead groups": (every_group(rewards=(0.0,) * 8), 6, "too hard"),
    "truncated": (every_group(truncated=1.0), 4, "answers were cut off"),
    "entropy collapse": (every_group(entropy=0.05, rewards=(0.0, 1.0, 0.0, 0.0)), 3, "a tenth of the first"),
    "length drift": (every_group(length=300.0, rewards=(0.0, 0.0, 0.0, 1.0)), 4, "over twice as long"),
    "repetition": (every_group(repetition=0.8), 4, "4-grams"),
    "reward errors": (lambda facts: replace(facts, failures=0.3), 9, "the grader failed"),
    "rollout-training mismatch": (lambda facts: replace(facts, mismatch=0.1), 16, "0.02 nats"),
}


def run(trouble, rounds=ONSET + 20, seed=0):
    rng, health, findings = np.random.default_rng(seed), Health(), []
    for number in range(rounds):
        facts = healthy(rng, number)
        findings += health.feed(trouble(facts) if number >= ONSET else facts)
    return findings


@pytest.mark.parametrize("name", TROUBLE)
def test_each_trouble_is_found_soon_and_called_by_its_name(name):
    trouble, within, words = TROUBLE[name]
    for seed in range(3):
        findings = run(trouble, seed=seed)
        first = findings[0]
        assert first.name == name and ONSET <= first.round < ONSET + within, str(first)
        assert words in first.evidence and first.remedy
        assert {finding.name for finding in findings} == {name}  # and nothing else is blamed


def test_healthy_runs_over_20_seeds_have_no_finding():
    for seed in range(20):
        assert run(lambda facts: facts, rounds=100, seed=seed) == []


def test_a_finding_is_said_once_and_stopping_outweighs_warning():
    findings = run(every_group(truncated=1.0), rounds=ONSET + 60)
    assert [finding.severity for finding in findings] == ["warn", "stop"]
    assert findings[0].round < findings[1].round
    assert [f.severity for f in run(lambda facts: replace(facts, failures=1.0))] == ["warn", "stop"]
    assert [f.severity for f in run(lambda facts: replace(facts, mismatch=float("nan")))] == ["stop"]


@pytest.mark.parametrize(
    ("rewards", "words", "remedy"),
    [((1.0,) * 8, "too easy: this round 16 were all right", "harder tasks"), ((0.0,) * 8, "too hard", "easier tasks"),
     ((), "16 without a score", "too few attempts got a score")],
)  # fmt: skip
def test_dead_groups_say_why(rewards, words, remedy):
    first = run(every_group(rewards=rewards))[0]
    assert first.name == "dead groups" and words in first.evidence and remedy in first.remedy


def test_a_reward_that_tells_nothing_apart_from_the_start():
    health, findings = Health(), []
    group = GroupFacts((0.0,) * 8, 100.0, 0.0, 1.0, 0.0)
    for number in range(10):
        findings += health.feed(Facts(number, (group,) * GROUPS))
    assert findings[0].name == "dead groups" and "every reward of the run so far is 0" in findings[0].evidence


def test_what_honest_training_does_by_itself_is_no_trouble():
    """Solved tasks with hardly any entropy left; answers three times as long that are better for it."""
    assert not [f for f in run(every_group(entropy=0.01, rewards=(1.0,) * 7 + (0.0,)))]
    assert not [f for f in run(every_group(length=400.0, rewards=(1.0,) * 7 + (0.0,)))]

    # most groups dead is a finding only beyond what is tolerated: here exactly 10 of 16
    def some(facts):
        dead = [replace(group, rewards=(1.0,) * 8) for group in facts.groups[:10]]
        return replace(facts, groups=(*dead, *(replace(g, rewards=(0.0, 1.0)) for g in facts.groups[10:])))

    assert not run(some, rounds=ONSET + 100)


def test_short_answers_that_are_no_better_are_drift_too():
    assert run(every_group(length=10.0, rewards=(0.0, 0.0, 0.0, 1.0)))[0].name == "length drift"


def test_a_model_that_looped_from_the_start_is_told():
    health, rng, findings = Health(), np.random.default_rng(0), []
    for number in range(30):
        findings += health.feed(every_group(repetition=0.9)(healthy(rng, number)))
    assert [f.name for f in findings] == ["repetition"] and "60% is tolerated" in findings[0].evidence


def test_the_state_survives_a_checkpoint():
    """Through JSON after every round, the findings are those of the unbroken run."""
    rng = np.random.default_rng(3)
    unbroken, resumed = Health(), Health()
    said = []
    for number in range(60):
        facts = replace(healthy(rng, number), heldout=tuple((rng.random(50) < 0.5).astype(float)))
        if number >= 40:
            facts = every_group(truncated=1.0, rewards=(1.0,) * 8)(facts)
            facts = replace(facts, heldout=(0.0,) * 50)
        resumed = Health.restore(json.loads(json.dumps(resumed.state())))
        said.append([unbroken.feed(facts), resumed.feed(facts)])
        assert said[-1][0] == said[-1][1]
    assert {f.name for pair in said for f in pair[0]} >= {"truncated", "dead groups", "reward hacking"}


def test_rounds_without_anything_are_no_evidence():
    health = Health()
    assert [health.feed(Facts(number, ())) for number in range(20)] == [[]] * 20
