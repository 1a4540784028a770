"""Pairs as a source: every epoch once, the same for the same step; mismatched answers; the cached start."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.batch import Example, Feedback, Pair, TokenScores, prediction_sites
from rung.errors import UserError
from rung.sources.feedback import judged_pairs, mismatched, other_prompts
from rung.sources.preferences import PreferenceSource
from rung.sources.reference import with_reference


def example(prompt, answer, origin="r"):
    ids = np.array([*prompt, *answer], np.int32)
    return Example(ids, np.arange(len(ids)) >= len(prompt), origin)


def pairs(count):
    return [
        Pair(
            example([1, 2, 3 + i % 3], range(10, 11 + i % 4), f"f:{i}"),
            example([1, 2, 3 + i % 3], range(30, 32 + i % 3), f"f:{i}"),
        )
        for i in range(count)
    ]


def source(count, **options):
    return PreferenceSource(pairs(count), [count], None, **{"micro_tokens": 40, **options})


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 7), st.integers(1, 3), st.integers(0, 5))
def test_every_epoch_reads_every_pair_once(count, step_pairs, epochs, seed):
    one = source(count, step_pairs=step_pairs, epochs=epochs, seed=seed)
    assert one.steps() == -(-count * epochs // step_pairs)
    seen = Counter(row for step in range(one.steps()) for rows in one.layout(step) for row in rows)
    assert seen == {row: epochs for row in range(count)}
    assert one.metrics(one.steps() - 1)["epoch"] == epochs
    assert {r for rows in one.first_visits(one.steps()) for r in rows} == set(range(count))


def test_ranks_share_a_step_and_layout_keeps_within_its_limit():
    alone = source(12, step_pairs=6, epochs=1)
    parts = [source(12, step_pairs=6, epochs=1, rank=rank, world=2).step(1) for rank in (0, 1)]
    origins = lambda batches: Counter(o for b in batches for o in b.origins)  # noqa: E731
    assert origins(parts[0]) + origins(parts[1]) == origins(alone.step(1))
    assert all(len(batch.token_ids_N) <= 40 for batch in alone.step(1))
    with pytest.raises(UserError, match="--micro-tokens"):
        source(3, micro_tokens=5)
    with pytest.raises(UserError, match="--step-pairs"):
        source(3, step_pairs=0)


def test_a_batch_names_its_pairs_and_shares_the_prompt():
    batch = source(1).batch([0])
    assert batch.token_ids_N.tolist() == [1, 2, 3, 10, 30, 31]
    assert (batch.lengths, batch.parents, batch.pairs) == ((3, 1, 2), (-1, 0, 0), ((1, 2),))


# ---- thumbs ----


def test_partners_are_the_last_earlier_answer_to_another_prompt():
    a, b, c = (np.array([x], np.int32) for x in (1, 2, 3))
    assert other_prompts([a, b, c]) == [2, 0, 1]
    assert other_prompts([a, a, b, b, a]) == [3, 3, 1, 1, 3]
    with pytest.raises(UserError, match="one prompt"):
        other_prompts([a, a])


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12))
def test_no_answer_is_matched_with_its_own_prompt(kinds):
    prompts = [np.array([kind], np.int32) for kind in kinds]
    if len(set(kinds)) > 1:
        partners = other_prompts(prompts)
        assert all(kinds[i] != kinds[partner] for i, partner in enumerate(partners))


def test_a_mismatched_answer_stands_behind_the_other_prompt_and_is_cut_to_length():
    donor = example([9, 9], [20, 21, 22], "f:7")
    found = mismatched(np.array([1, 2, 3], np.int32), donor, 5, "f:1")
    assert found.token_ids.tolist() == [1, 2, 3, 20, 21]
    assert found.trained.tolist() == [False, False, False, True, True]
    assert "f:7" in found.origin


def test_judged_answers_and_their_labels():
    rows = [Feedback(example([1], [10]), True), Feedback(example([2], [20, 21]), False)]
    made, labels = judged_pairs(rows, 9)
    assert labels == [True, False]
    assert [pair.rejected.token_ids.tolist() for pair in made] == [[1, 20, 21], [2, 10]]
    with pytest.raises(UserError, match="labels are true"):
        judged_pairs(rows[:1] * 2, 9)


# ---- the start's log-probs ----


def by_token(batch):
    """A policy whose log-prob of a token is minus its id, less its position over 100."""
    tokens = prediction_sites(batch)[1]
    document_N = torch.repeat_interleave(torch.arange(len(batch)), torch.tensor(batch.lengths))
    value = -batch.token_ids_N[tokens] - batch.positions_N[tokens] / 100
    return TokenScores(value.float(), document_N[tokens])


def test_columns_stand_at_their_tokens_and_prompts_hold_nothing(tmp_path):
    one = source(7, step_pairs=3, epochs=1)
    for pair in with_reference(one, one.steps(), lambda: by_token, ["w"], tmp_path):
        for answer in (pair.chosen, pair.rejected):
            expected = np.where(answer.trained, -answer.token_ids - np.arange(len(answer)) / 100, 0)
            np.testing.assert_array_equal(answer.columns["reference_logprob"], expected.astype(np.float32))


def test_scored_once_then_read(tmp_path):
    calls = []

    def start():
        calls.append(1)
        return by_token

    one = source(7, step_pairs=3, epochs=2)
    first = with_reference(one, one.steps(), start, ["w"], tmp_path)
    again = with_reference(one, one.steps(), start, ["w"], tmp_path)
    assert len(calls) == 1 and len(list(tmp_path.iterdir())) == 1
    for a, b in zip(first, again, strict=True):
        assert (
            a.chosen.columns["reference_logprob"].tolist() == b.chosen.columns["reference_logprob"].tolist()
        )


@pytest.mark.parametrize("changed", ["weights", "rows", "layout", "mask"])
def test_anything_the_numbers_depend_on_makes_another_key(tmp_path, changed):
    one = source(7, step_pairs=3, epochs=1)
    with_reference(one, one.steps(), lambda: by_token, ["w"], tmp_path)
    identity = ["v"] if changed == "weights" else ["w"]
    if changed == "rows":
        one.pairs = [*one.pairs[:6], Pair(one.pairs[6].rejected, one.pairs[6].chosen)]
    if changed == "layout":
        one = source(7, step_pairs=3, epochs=1, micro_tokens=20)
    if changed == "mask":
        last = one.pairs[6]
        less = Example(last.chosen.token_ids, last.chosen.trained & (last.chosen.token_ids != 10), "r")
        one.pairs = [*one.pairs[:6], Pair(less, last.rejected)]
    with_reference(one, one.steps(), lambda: by_token, identity, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_only_pairs_that_will_be_read_are_scored(tmp_path):
    one = source(7, step_pairs=2)
    read = with_reference(one, 2, lambda: by_token, ["w"], tmp_path)
    assert sum("reference_logprob" in pair.chosen.columns for pair in read) == 4


def test_every_visit_holds_a_new_row_though_a_small_file_repeats():
    one = PreferenceSource(pairs(8), [2, 6], [0.5, 0.5], step_pairs=2, micro_tokens=12, epochs=4)
    seen: set[int] = set()
    for rows in one.first_visits(one.steps()):
        assert not seen.issuperset(rows)
        seen.update(rows)
    assert seen == set(range(8))


def test_the_first_visit_counts_since_training_repeats_its_arithmetic(tmp_path):
    """A start whose numbers depend on the layout, as rounding does: the first step's layout is the one kept."""

    def by_layout(batch):
        scores = by_token(batch)
        return TokenScores(scores.logprob_M - batch.token_ids_N.sum(), scores.document_M)

    one = PreferenceSource(pairs(8), [2, 6], [0.5, 0.5], step_pairs=3, micro_tokens=20, epochs=4)
    one.pairs = with_reference(one, one.steps(), lambda: by_layout, ["w"], tmp_path)
    met: set[int] = set()
    for rows in one.first_visits(one.steps()):
        batch = one.batch(rows)
        new_M = torch.tensor(
            [rows[(d - batch.pairs[0][0]) // 3] not in met for d in by_token(batch).document_M]
        )
        assert torch.equal(batch.column("reference_logprob")[new_M], by_layout(batch).logprob_M[new_M])
        met.update(rows)


@pytest.mark.parametrize("seed", range(4))
def test_the_same_tokens_in_one_micro_batch_or_two_are_two_keys(tmp_path, seed):
    for number, size in enumerate([40, 8], 1):
        one = source(2, step_pairs=2, epochs=1, seed=seed, micro_tokens=size)
        assert len(list(one.first_visits(1))) == number
        with_reference(one, 1, lambda: by_token, ["w"], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
