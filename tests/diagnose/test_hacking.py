"""Reward up and held-out down raises the alarm; an honest learner does not, over 20 seeds."""

from dataclasses import replace

import numpy as np
import pytest
from hacking_toy import HACKED, HONEST, PHRASE_WORLD, simulate

from rung.diagnose.evidence import lower_bound
from rung.diagnose.facts import Facts, GroupFacts
from rung.diagnose.hacking import Divergence, Reference, block_of, close, rank, share_of
from rung.diagnose.health import Health


def test_an_honest_learner_has_no_finding_over_20_seeds():
    world = replace(HONEST["right or wrong"], rounds=120)
    traces = [simulate(world, seed) for seed in range(20)]
    assert min(trace.truth[-1] - trace.truth[0] for trace in traces) > 0.2  # it learned
    assert [finding for trace in traces for finding in trace.findings] == []


@pytest.mark.parametrize("name", [name for name in HONEST if name != "right or wrong"])
def test_other_honest_learners_have_none_either(name):
    assert [finding for seed in range(5) for finding in simulate(HONEST[name], seed).findings] == []


def test_a_hacked_reward_raises_the_alarm_in_nearly_every_seed():
    world = replace(PHRASE_WORLD, rounds=100)
    traces = [simulate(world, seed) for seed in range(20)]
    fell = [trace for trace in traces if trace.truth[trace.peak] - trace.truth[-1] > 0.2]
    assert len(fell) == 20  # the toy does what it is for
    assert all(np.mean(t.paid[-10:]) > np.mean(t.paid[:10]) + 0.5 for t in traces)
    delays = [trace.alarm() - trace.peak for trace in traces if trace.alarm() is not None]
    assert len(delays) >= 19 and min(delays) > 0 and np.median(delays) <= 45
    stops = [finding for trace in traces for finding in trace.findings if finding.severity == "stop"]
    assert all("held-out score went from" in finding.evidence for finding in stops) and len(stops) >= 18


def test_pay_for_length_alone_is_caught_though_nothing_was_ever_learned():
    traces = [simulate(replace(HACKED["only length paid"], rounds=100), seed) for seed in range(5)]
    assert all(trace.alarm() is not None and trace.alarm() < 90 for trace in traces)


# ---- the statements, one by one ----


def feed(health, number, reward, heldout, spread=0.1, attempts=200):
    """A round whose rewards are spread about a mean and whose held-out attempts are right in a given share."""
    points = tuple(reward + spread * np.linspace(-1, 1, 8))
    group = GroupFacts(points, 100.0, 0.0, 1.0, 0.0)
    scores = (1.0,) * round(attempts * heldout) + (0.0,) * round(attempts * (1 - heldout))
    return health.feed(Facts(number, (group,) * 8, heldout=scores, parts={"a": 0.0, "b": reward}, kl=0.5))


def story(reward, heldout, rounds=60):
    health, findings = Health(), []
    for number in range(rounds):
        up = number >= 20
        findings += feed(health, number, reward if up else 0.0, heldout if up else 0.5)
    return [f for f in findings if f.name == "reward hacking"]


def test_up_and_down_stops_up_and_flat_warns():
    [stop] = story(reward=1.0, heldout=0.2)
    assert (
        stop.severity == "stop"
        and "0.500 to 0.200" in stop.evidence
        and "KL to the start 0.5" in stop.evidence
    )
    assert "rose most is b (+1)" in stop.evidence
    [warn] = story(reward=1.0, heldout=0.5)
    assert warn.severity == "warn" and warn.round >= 20


@pytest.mark.parametrize(
    ("reward", "heldout"),
    [(1.0, 0.75), (0.0, 0.5), (0.0, 0.2), (-1.0, 0.2), (0.005, 0.5)],
    ids=["both up after both were flat", "both flat", "only held-out falls", "both fall", "a trifle up"],
)
def test_everything_else_is_not_hacking(reward, heldout):
    assert story(reward, heldout) == []


def test_a_peak_in_mid_run_becomes_the_reference():
    """From 0.3 up to 0.8 and down to 0.5: above the start, yet hacked."""
    health, findings = Health(), []
    for number in range(100):
        heldout = 0.3 if number < 8 else 0.8 if number < 40 else 0.5
        findings += feed(health, number, {0.3: 0.0, 0.8: 1.0, 0.5: 2.0}[heldout], heldout)
    assert findings[0].severity == "stop" and 40 <= findings[0].round <= 46


def test_a_run_without_held_out_scores_or_without_reward_says_nothing():
    health = Health()
    for number in range(40):
        assert (
            health.feed(Facts(number, (GroupFacts((float(number), number + 1.0), 9.0, 0.0, 1.0, 0.0),))) == []
        )
    health = Health()
    for number in range(40):
        assert health.feed(Facts(number, (), heldout=(float(number < 20),) * 50)) == []


# ---- the pieces ----


def test_blocks_double():
    assert [block_of(n) for n in (0, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128)] == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
        5,
    ]


def test_the_level_is_shared_out_and_never_exceeded():
    shares = [share_of(Reference(k), 0.01) for k in range(5000)]
    assert sum(shares) < 0.01 and sum(shares) == pytest.approx(0.01, rel=1e-3) and shares[0] == 0.005


def test_what_a_reference_lets_one_bet_on():
    """The first reference has half the level, its bound half of that: 0.02. All 200 right bound it at 0.02^(1/200)."""
    reference = Reference(0, rewards=[0.0], heldout_sum=100.0, heldout_count=200)
    close(reference, 0.08)
    bound = lower_bound(0.5, 200, 0.02)
    assert reference.fall.mean == pytest.approx(1 - bound + 0.03) and bound == pytest.approx(0.402, abs=1e-3)
    assert reference.flat.mean == pytest.approx(1 - bound - 0.15)
    perfect = Reference(0, heldout_sum=200.0, heldout_count=200)
    close(perfect, 0.08)
    assert (
        perfect.fall.mean == pytest.approx(1 - 0.02 ** (1 / 200) + 0.03) and perfect.flat is None
    )  # no room above
    few = Reference(0, heldout_sum=10.0, heldout_count=20)
    close(few, 0.08)
    assert few.fall is not None and few.flat is None  # 20 attempts cannot tell flat from a gain
    low = Reference(0, heldout_sum=1.0, heldout_count=200)
    close(low, 0.08)
    assert low.fall is None  # nothing to fall from
    unmeasured = Reference(0)
    close(unmeasured, 0.08)
    assert unmeasured.fall is unmeasured.flat is None


def test_a_rank_by_hand():
    reference = Reference(0, rewards=[0.0, 0.0, 1.0, 2.0])
    assert (
        rank(reference, (0.0,)) == 0.25 and rank(reference, (1.0,)) == 0.625 and rank(reference, (9.0,)) == 1
    )
    assert rank(reference, (-1.0, 9.0)) == 0.5


def test_false_alarms_at_the_very_edge():
    """Reward far up, held-out exactly as it was (for the fall) for 40 rounds, 150 runs, at level 0.2."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(150):
        divergence, fell = Divergence(0.2), False
        for number in range(40):
            reward = 1.0 if number >= 8 else 0.0
            group = GroupFacts((reward, reward + 0.1), 1.0, 0.0, 1.0, 0.0)
            scores = tuple((rng.random(40) < 0.5 - 0.03 * (number >= 8)).astype(float))
            found = divergence.update(number, Facts(number, (group,), heldout=scores))
            fell = fell or any(kind == "fall" for kind, _ in found)
        alarms += fell
    assert alarms <= 0.2 * 150
