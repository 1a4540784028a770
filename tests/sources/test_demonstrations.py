"""Which documents make a step, and how they lie: pure functions of seed and step."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.batch import Example
from rung.errors import UserError
from rung.sources.demonstrations import DemonstrationSource


def examples(lengths):
    return [Example(np.full(n, i, np.int32), np.arange(n) > 0, f"f:{i}") for i, n in enumerate(lengths)]


def source(lengths, **options):
    return DemonstrationSource(examples(lengths), [len(lengths)], None, **{"micro_tokens": 64, **options})


def origins(batches):
    return Counter(o for batch in batches for o in batch.origins)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=40),
    st.integers(1, 3),
    st.integers(20, 200),
    st.integers(0, 9),
)
def test_every_epoch_reads_every_document_once_within_budget(lengths, epochs, budget, seed):
    one = source(lengths, epochs=epochs, step_tokens=budget, seed=seed)
    seen = Counter()
    for step in range(one.steps()):
        batches = one.step(step)
        tokens = sum(len(batch.token_ids_N) for batch in batches)
        assert tokens <= budget or sum(map(len, batches)) == 1
        assert all(len(batch.token_ids_N) <= 64 for batch in batches)
        seen += origins(batches)
    assert seen == Counter({f"f:{i}": epochs for i in range(len(lengths))})


def test_a_step_does_not_depend_on_what_was_asked_before():
    lengths = [3 + i % 11 for i in range(30)]
    walked, asked = source(lengths, seed=4), source(lengths, seed=4)
    expected = [[e.origin for e in walked.documents(step)] for step in range(9)]
    assert [e.origin for e in asked.documents(8)] == expected[8]
    assert [e.origin for e in asked.documents(2)] == expected[2]
    other = source(lengths, seed=5)
    assert [e.origin for e in other.documents(0)] != expected[0]


def test_epochs_are_shuffled_anew():
    one = source([4] * 30, epochs=2, step_documents=30)
    first, second = ([e.origin for e in one.documents(step)] for step in (0, 1))
    assert sorted(first) == sorted(second) and first != second


def test_a_step_counted_in_documents():
    one = source([5] * 10, epochs=1, step_documents=4)
    assert [len(one.documents(step)) for step in range(one.steps())] == [4, 4, 2]
    assert one.metrics(0) == pytest.approx({"epoch": 0.4}) and one.metrics(2) == pytest.approx({"epoch": 1.0})


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_a_step_without_overlap(world):
    lengths = [7 + i % 20 for i in range(40)]
    whole = origins(source(lengths, step_tokens=400).step(0))
    parts = [
        origins(source(lengths, step_tokens=400, rank=rank, world=world).step(0)) for rank in range(world)
    ]
    assert sum(parts, Counter()) == whole and max(whole.values()) == 1


def test_without_packing_every_document_is_alone():
    assert [len(batch) for batch in source([5] * 6, step_documents=6, packing=False).step(0)] == [1] * 6


def test_a_document_that_fits_no_micro_batch_is_refused():
    with pytest.raises(UserError, match="65 tokens"):
        source([5, 65])


def test_weights_shape_the_epoch():
    one = DemonstrationSource(examples([4] * 40), [20, 20], [3.0, 1.0], step_documents=40, micro_tokens=64)
    first = sum(int(e.origin[2:]) < 20 for e in one.documents(0))
    assert first == 30
