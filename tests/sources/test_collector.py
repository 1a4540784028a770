"""A round is one function of its number: its tasks, its dice, its groups, its credit."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung import dist
from rung.advantages.recipes import RECIPES
from rung.batch import Rollout
from rung.envs.environment import Task
from rung.errors import RunStopped
from rung.rewards.score import Abstain, Failure, Score
from rung.sources.collector import Collector

TASKS = [Task(f"t:{i}", ({"role": "user", "content": str(i)},), reference=i) for i in range(7)]
GRPO = replace(RECIPES["grpo"], group_size=3)


class Stage:
    """Plays an ask as a rollout that remembers it; a rollout's two tokens are by the model and the world."""

    def __init__(self):
        self.asks, self.waves = [], []

    def play(self, asks, ended):
        self.asks += asks
        self.waves.append(len(asks))
        episodes = [
            SimpleNamespace(attempt=lambda ask=ask: ask, rollout=lambda ask=ask: rollout(ask)) for ask in asks
        ]
        for index in reversed(range(len(asks))):  # they end in any order
            ended(index, episodes[index])
        return episodes


def rollout(ask) -> Rollout:
    half = np.full(2, -0.5, np.float32)
    return Rollout(
        ask.task.key, ask.group, np.array([1], np.int32), np.array([ask.seed % 1000, 5], np.int32),
        np.array([True, False]), half, half, half, np.zeros(2, np.int32), "length" if ask.seed % 5 == 0 else "stop",
    )  # fmt: skip


class Judge:
    """Graders whose verdicts come when asked for; calls are kept."""

    def __init__(self, verdict, batched=False):
        self.verdict, self.batched = verdict, batched
        self.calls = []

    def submit(self, attempts):
        self.calls.append(list(attempts))
        results = [SimpleNamespace(result=lambda ask=ask: self.verdict(ask)) for ask in attempts]
        return SimpleNamespace(futures=results)


def by_seed(ask):
    return Score(float(ask.seed % 7))


def collector(verdict=by_seed, recipe=GRPO, **options) -> Collector:
    options = {"prompts": 4, "seed": 0, **options}
    judge = options.pop("judge", None) or Judge(verdict)
    return Collector(Stage(), judge, recipe, TASKS, **options)


def test_every_task_once_an_epoch_and_every_answer_its_own_seed():
    made = collector(prompts=7)
    played = [record for round in range(3) for record in made(round)]
    for epoch in range(3):
        tasks = [record.rollout.task for record in played[21 * epoch : 21 * (epoch + 1)]]
        assert sorted(set(tasks)) == [task.key for task in TASKS] and len(tasks) == 21
    assert len({ask.seed for ask in made.theatre.asks}) == 63
    orders = [[r.rollout.task for r in played[21 * e : 21 * e + 21 : 3]] for e in range(3)]
    assert orders[0] != orders[1] or orders[1] != orders[2]


def test_a_round_does_not_depend_on_what_was_played_before():
    straight, late = collector(), collector()
    first = [straight(round) for round in range(3)]
    for one, two in zip(first[2], late(2), strict=True):
        assert one.rollout.task == two.rollout.task and one.rollout.group == two.rollout.group
        assert one.verdict == two.verdict and np.array_equal(one.advantage, two.advantage)
    other = collector(seed=1)(2)
    assert [r.rollout.token_ids[0] for r in other] != [r.rollout.token_ids[0] for r in first[2]]


def test_verdicts_stay_with_their_answers_in_whatever_order_they_end():
    made = collector()
    records = made(0)
    for ask, record in zip(made.theatre.asks, records, strict=True):
        assert record.rollout.task == ask.task.key and record.verdict == by_seed(ask)


def test_a_reward_of_many_gets_whole_groups_in_the_order_asked():
    judge = Judge(by_seed, batched=True)
    made = collector(judge=judge)
    records = made(0)
    assert [len(call) for call in judge.calls] == [3] * 4
    assert sorted((call for call in judge.calls), key=lambda call: call[0].group) == [
        made.theatre.asks[i : i + 3] for i in range(0, 12, 3)
    ]
    assert [r.verdict for r in records] == [r.verdict for r in collector()(0)]
    assert [len(call) for call in made_alone().graders.calls] == [1] * 12


def made_alone() -> Collector:
    made = collector()
    made(0)
    return made


def test_credit_by_hand():
    values = iter([0.0, 1.0, 5.0] + [2.0] * 3)
    records = collector(lambda ask: Score(next(values)), prompts=2)(0)
    # mean 2, deviations -2 -1 3, sample variance (4 + 1 + 9) / 2 = 7
    expected = np.array([-2, -1, 3]) / (np.sqrt(7) + 1e-6)
    assert [r.advantage[0] for r in records[:3]] == pytest.approx(expected.tolist(), abs=1e-6)
    assert [r.advantage[0] for r in records[3:]] == [0, 0, 0]
    assert all(r.advantage[1] == 0 and r.weight.tolist() == [1, 0] for r in records)


def test_what_has_no_score_is_left_out_and_never_a_zero():
    values = iter([Score(1.0), Failure("crash"), Score(3.0), Abstain("?"), Score(9.0), Failure("timeout")])
    records = collector(lambda ask: next(values), prompts=2)(0)
    scale = np.sqrt(2) + 1e-6
    assert [r.advantage[0] for r in records] == pytest.approx([-1 / scale, 0, 1 / scale, 0, 0, 0], abs=1e-6)
    assert [r.weight.any() for r in records] == [True, False, True, False, False, False]


def test_where_nobody_got_a_score_the_run_stops():
    with pytest.raises(RunStopped, match=r"None of 12 rollouts got a score.*no disk") as stop:
        collector(lambda ask: Failure("exception", "no disk"))(0)
    assert stop.value.code == 1


def test_a_round_without_credit_trains_with_advantage_0():
    records = collector(lambda ask: Score(1.0), replace(GRPO, dynamic_sampling=True), waves=2)(0)
    assert len(records) == 12
    assert not any(r.advantage.any() for r in records) and all((r.weight == 1).all() for r in records)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.booleans(), min_size=7, max_size=7), st.integers(1, 5), st.integers(1, 4), st.integers(0, 9)
)
def test_waves_stop_when_enough_groups_differ(alive, prompts, waves, round):
    """Oracle: walk over the groups in order, wave by wave."""
    made = collector(
        lambda ask: Score(float(ask.seed) if alive[ask.task.reference] else 1.0),
        replace(GRPO, dynamic_sampling=True), prompts=prompts, waves=waves,
    )  # fmt: skip
    records = made(round)
    groups: dict[int, bool] = {}
    played = 0
    for wave in range(waves):
        for ask in made.theatre.asks[3 * prompts * wave : 3 * prompts * (wave + 1)]:
            groups[ask.group] = alive[ask.task.reference]
        played += 1
        if sum(groups.values()) >= prompts:
            break
    assert len(made.theatre.waves) == played
    good = [group for group in sorted(groups) if groups[group]]
    dead = [group for group in sorted(groups) if not groups[group]]
    kept = sorted({r.rollout.group for r in records})
    assert kept == sorted((good + dead)[:prompts]) and len(records) == 3 * prompts
    assert min(groups) == round * waves * prompts  # rounds never share a group


def test_greedy_answers_are_a_baseline_and_no_rollouts():
    recipe = replace(RECIPES["remax"], group_size=2)
    made = collector(lambda ask: Score(10.0 if ask.greedy else float(ask.seed % 7)), recipe)
    records = made(0)
    assert made.theatre.waves == [12] and len(records) == 8
    assert all(r.advantage[0] == r.verdict.value - 10 for r in records)
    failing = collector(lambda ask: Failure("crash") if ask.greedy and ask.group == 1 else Score(2.0), recipe)
    for record in failing(0):
        assert record.weight.any() == (record.rollout.group != 1)


def test_cut_answers_do_not_train_where_the_recipe_says_so():
    records = collector(recipe=replace(GRPO, overlong_filter=True))(0)
    assert {r.rollout.finish for r in records} == {"stop", "length"}
    for record in records:
        assert record.weight.any() == (record.rollout.finish == "stop")


def test_the_reference_is_asked_only_where_it_is_read():
    asked = []

    def reference(rollouts):
        asked.append(len(rollouts))
        return [np.full(len(r), -0.7, np.float32) for r in rollouts]

    plain = collector(reference=reference)(0)
    assert asked == [] and plain[0].reference_logprob is None and plain[0].old_logprob is None
    pulled = collector(
        recipe=replace(GRPO, kl_in_reward="answer", reward_beta=0.5), reference=reference, prompts=1
    )(0)
    assert asked == [3] and pulled[0].reference_logprob.tolist() == [np.float32(-0.7)] * 2
    kept = collector(old=lambda rollouts: [r.policy_logprob * 3 for r in rollouts])(0)
    assert all((r.old_logprob == -1.5).all() for r in kept)


def test_kl_in_the_reward_counts_the_models_tokens_only():
    """REINFORCE without a baseline: the advantage is the reward less beta (log p - log reference) = 0.5 x 0.2."""
    recipe = replace(GRPO, estimator="reward", kl_in_reward="answer", reward_beta=0.5)
    records = collector(recipe=recipe, reference=lambda rs: [np.full(len(r), -0.7, np.float32) for r in rs])(
        0
    )
    for record in records:
        assert record.advantage[0] == pytest.approx(record.verdict.value - 0.1, abs=1e-6)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_a_round_and_all_see_the_whole(world, monkeypatch):
    """Each rank is played with a gathering that adds what the others would have sent."""
    sent: dict[int, list] = {}

    def on_rank(rank, gather):
        monkeypatch.setattr(dist, "rank", lambda: rank)
        monkeypatch.setattr(dist, "world", lambda: world)
        monkeypatch.setattr(dist, "gather_objects", gather)
        made = collector(prompts=5)
        return made, made(3)

    for rank in range(world):
        on_rank(rank, lambda own, rank=rank: sent.setdefault(rank, own))
    everyone = [part for rank in range(world) for part in sent[rank]]
    assert len(everyone) == 15 and all(sent.values())
    monkeypatch.undo()
    alone = collector(prompts=5)(3)
    for rank in range(world):
        _, records = on_rank(rank, lambda own: everyone)
        for one, two in zip(records, alone, strict=True):
            assert one.rollout.task == two.rollout.task and one.verdict == two.verdict
            assert one.rollout.token_ids[0] == two.rollout.token_ids[0]
            assert np.array_equal(one.advantage, two.advantage)


def test_where_the_time_went_is_said():
    made = collector()
    made(0)
    assert set(made.seconds) == {"rollout_seconds", "credit_seconds"}
    assert all(seconds >= 0 for seconds in made.seconds.values())
