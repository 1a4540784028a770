"""Which rollouts make which update: every one once an epoch, in bins that hold them, from rounds that resume."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.batch import Rollout
from rung.rewards.score import Score
from rung.rollouts.columns import Graded
from rung.rollouts.store import RolloutStore
from rung.sources.experience import ExperienceSource, collate_groups, example


def graded(group: int, number: int, prompt: int, tokens: int, kept: bool = True, version: int = 0) -> Graded:
    """A rollout whose advantage names it, so that it is found again in a batch."""
    ids = np.arange(tokens, dtype=np.int32) + 10 + number
    mine = np.arange(tokens) % 3 != 1
    numbers = np.where(mine, np.float32(-0.5 - number), 0).astype(np.float32)
    rollout = Rollout(
        f"task:{group}", group, np.arange(prompt, dtype=np.int32) + group, ids, mine, numbers, numbers * 2,
        numbers * 0, np.full(tokens, version, np.int32), "stop", "digest", "text",
    )  # fmt: skip
    credit = np.where(mine, np.float32(number + 1), 0).astype(np.float32)
    weight = (mine & kept).astype(np.float32)
    return Graded(rollout, Score(1.0), credit * kept, weight, numbers * 3, None)


def source_of(rounds, folder, **options) -> ExperienceSource:
    options = {"rounds": len(rounds), **options}
    return ExperienceSource(lambda round: rounds[round], RolloutStore(folder), **options)


sizes = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=5), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    sizes, st.integers(1, 4), st.integers(1, 2), st.integers(8, 60), st.booleans(), st.integers(1, 3), st.data()
)  # fmt: skip
def test_an_epoch_goes_through_every_rollout_once(
    tmp_path_factory, groups, parts, epochs, room, share, world, data
):
    records, number = [], 0
    for group, lengths in enumerate(groups):
        for length in lengths:
            kept = data.draw(st.booleans()) if number else True
            records.append(graded(group, number, 3 + group, length, kept))
            number += 1
    if len(records) < parts:
        return
    folder = tmp_path_factory.mktemp("round")
    options = dict(updates=parts * epochs, epochs=epochs, micro_tokens=room, share_prompts=share, world=world)
    sources = [source_of([records], folder / str(rank), rank=rank, **options) for rank in range(world)]
    kept = sorted(float(r.advantage.max()) for r in records if r.weight.any())
    for epoch in range(epochs):
        seen, alone = [], 0
        for part in range(parts):
            found = [batch for source in sources for batch in source.step(epoch * parts + part)]
            assert found, "an update without rollouts"
            for batch in found:
                seen += names_in(batch)
                documents = len(batch) - sum(not trained.any() for trained in split(batch, batch.trained_N))
                assert len(batch.token_ids_N) <= room or documents == 1
                alone += documents
            assert any(batch.column("weight").any() for batch in found)
        assert sorted(name for name in seen if name) == kept
        assert alone == max(len(kept), parts)  # what has no credit stands in only where there is too little


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(8, 60), st.integers(1, 3), st.data())
def test_what_has_no_credit_is_left_out_and_counted(tmp_path_factory, groups, room, world, data):
    """Every token and document of the step counts once over ranks, laid down or not; only credit is laid down."""
    records = []
    for group, lengths in enumerate(groups):
        for length in lengths:
            record = graded(group, len(records), 3 + group, length)
            dead = data.draw(st.booleans())
            records.append(replace(record, advantage=record.advantage * 0) if dead else record)
    folder = tmp_path_factory.mktemp("round")
    options = dict(micro_tokens=room, world=world, credit_alone=True)
    sources = [source_of([records], folder / str(rank), rank=rank, **options) for rank in range(world)]
    batches = [batch for source in sources for batch in source.step(0)]
    laid = [name for batch in batches for name in names_in(batch)]
    credited = sorted(float(r.advantage.max()) for r in records if r.advantage.any())
    shortest = min(len(r.rollout) for r in records)
    assert sorted(laid) == (credited or [0.0])
    if not credited:
        assert sum(int(batch.trained_N.sum()) for batch in batches) == sum(
            np.arange(shortest) % 3 != 1
        )  # the shortest stands in
    tokens = sum(float(batch.column("weight").sum()) + batch.left_out[0] for batch in batches)
    assert tokens == sum(float(r.weight.sum()) for r in records)
    assert len(laid) + sum(batch.left_out[1] for batch in batches) == len(records)


def split(batch, tensor_N):
    return tensor_N.split(batch.lengths)


def names_in(batch) -> list[float]:
    """The advantage of each document that trains, 0 for one without credit."""
    parts = zip(split(batch, batch.trained_N), split(batch, batch.columns["advantage"]), strict=True)
    return [float(credit.max()) for trained, credit in parts if trained.any()]


def test_minibatches_are_whole_groups_and_another_shuffle_each_epoch(tmp_path):
    records = [graded(group, 3 * group + i, 4, 5) for group in range(8) for i in range(3)]
    source = source_of([records], tmp_path, updates=8, epochs=2, micro_tokens=10_000)
    updates = [[name for batch in source.step(step) for name in names_in(batch)] for step in range(8)]
    for names in updates:
        groups = {int(name - 1) // 3 for name in names}
        assert len(groups) == 2 and len(names) == 6
    assert updates[:4] != updates[4:]


def test_a_round_is_collected_once_kept_and_read_again(tmp_path):
    rounds = [[graded(0, 5 * r + i, 4, 6) for i in range(3)] for r in range(3)]
    asked, frozen = [], []
    source = ExperienceSource(
        lambda round: (asked.append(round), rounds[round])[1], RolloutStore(tmp_path), updates=2, rounds=3,
        freeze=frozen.append, began=lambda round, records: {"reward": float(round)},
    )  # fmt: skip
    first = [source.step(step) for step in range(6)]
    assert asked == [0, 1, 2] and frozen == [0, 2, 4]
    assert RolloutStore(tmp_path).rounds() == [0, 1, 2]
    again = source_of(rounds, tmp_path, updates=2)
    again.collect = lambda round: pytest.fail("it lies on disk")
    for step, batches in enumerate(first):
        for one, two in zip(batches, again.step(step), strict=True):
            assert (one.token_ids_N == two.token_ids_N).all() and one.columns.keys() == two.columns.keys()
            assert all((one.columns[n] == two.columns[n]).all() for n in one.columns)


def test_what_a_round_was_like_is_said_with_its_first_step(tmp_path):
    source = source_of([[graded(0, 0, 3, 4)]] * 2, tmp_path, updates=2)
    source.began = lambda round, records: {"reward": round + 0.5}
    said = []
    for step in range(4):
        source.step(step)
        said.append(source.metrics(step))
    assert said == [{"reward": 0.5, "round": 0}, {}, {"reward": 1.5, "round": 1}, {}]


@pytest.mark.parametrize(
    ("step", "left"), [(0, []), (1, [0]), (2, [0]), (3, [0, 1]), (4, [0, 1]), (5, [0, 1, 2])]
)
def test_resuming_forgets_the_rounds_that_were_not_begun(tmp_path, step, left):
    rounds = [[graded(0, r, 3, 4)] * 2 for r in range(4)]
    source = source_of(rounds, tmp_path, updates=2)
    for round in range(4):
        source.store.write(round, rounds[round])
    source.resume(step)
    assert source.store.rounds() == left


def test_sampling_runs_ahead_by_no_more_than_allowed(tmp_path):
    """What is frozen when: round r is sampled with the weights after r - s rounds, never while others are frozen."""
    events, lock = [], threading.Lock()
    current = [0]

    def collect(round):
        with lock:
            events.append(("collect", round, current[0]))
        return [graded(0, round, 3, 4, version=current[0])]

    def freeze(step):
        current[0] = step

    source = ExperienceSource(
        collect, RolloutStore(tmp_path), updates=2, rounds=5, staleness=2, freeze=freeze
    )
    for step in range(10):
        source.step(step)
    source.close()
    assert [event[1:] for event in events] == [(0, 0), (1, 0), (2, 0), (3, 2), (4, 4)]
    assert RolloutStore(tmp_path).rounds() == list(range(5))


def test_what_breaks_in_the_thread_breaks_the_step(tmp_path):
    def collect(round):
        if round == 1:
            raise RuntimeError("the sampler fell over")
        return [graded(0, round, 3, 4)]

    source = ExperienceSource(collect, RolloutStore(tmp_path), rounds=3, staleness=1)
    source.step(0)
    with pytest.raises(RuntimeError, match="fell over"):
        source.step(1)
    source.close()


def test_a_rollout_as_a_document():
    record = graded(2, 7, 3, 6)
    document = example(record)
    assert document.token_ids.tolist() == [2, 3, 4, *range(17, 23)]
    assert document.trained.tolist() == [False] * 3 + [True, False, True, True, False, True]
    assert document.origin == "task:2 (group 2)"
    assert set(document.columns) == {"advantage", "sampler_logprob", "weight", "old_logprob"}
    assert document.columns["advantage"].tolist() == [0, 0, 0, 8, 0, 8, 8, 0, 8]
    assert document.columns["old_logprob"].tolist() == [0, 0, 0, -22.5, 0, -22.5, -22.5, 0, -22.5]


def test_shared_prompts_are_laid_down_once_and_columns_stay_with_their_tokens():
    groups = [[graded(g, 4 * g + i, 5, 3 + i) for i in range(3)] for g in range(2)]
    shared, plain = (collate_groups(groups, share) for share in (True, False))
    assert len(plain.token_ids_N) - len(shared.token_ids_N) == 2 * 2 * 5
    for name in ("advantage", "weight", "sampler_logprob", "old_logprob"):
        assert shared.column(name).tolist() == plain.column(name).tolist()


def test_a_rollout_larger_than_a_bin_stands_alone(tmp_path):
    records = [graded(0, 0, 4, 3), graded(0, 1, 4, 90), graded(0, 2, 4, 3)]
    source = source_of([records], tmp_path, micro_tokens=16)
    assert [names_in(batch) for batch in source.step(0)] == [[1.0], [2.0], [3.0]]


def test_without_credit_means_advantage_0_and_still_a_weight(tmp_path):
    records = [replace(graded(0, i, 3, 4, kept=i == 0)) for i in range(3)]
    source = source_of([records], tmp_path, updates=3)
    found = [batch for step in range(3) for batch in source.step(step)]
    assert sorted(float(batch.columns["advantage"].max()) for batch in found) == [0, 0, 1]
    assert all((batch.column("weight") == 1).all() for batch in found)
