"""Orders of an epoch: permutations without weights, exact shares with them, small sources repeated evenly."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.data.mixture import epoch_order, shares
from rung.errors import UserError


def test_without_weights_an_epoch_is_a_permutation_that_changes():
    first, second = (epoch_order([5, 15], None, 7, epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()
    assert first.tolist() == epoch_order([5, 15], None, 7, 0).tolist()
    assert first.tolist() != epoch_order([5, 15], None, 8, 0).tolist()


def test_shares_by_hand():
    assert shares([1, 1], 5) == [3, 2]
    assert shares([0.5, 0.3, 0.2], 10) == [5, 3, 2]
    assert shares([1, 1, 1], 10) == [4, 3, 3]
    assert shares([3, 1], 0) == [0, 0]


sources = st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 10)), min_size=1, max_size=4)


@given(sources, st.integers(0, 5), st.integers(0, 3))
def test_weighted_epochs(case, seed, epoch):
    sizes, weights = [size for size, _ in case], [weight for _, weight in case]
    order = epoch_order(sizes, weights, seed, epoch)
    assert len(order) == sum(sizes)
    assert order.tolist() == epoch_order(sizes, weights, seed, epoch).tolist()
    starts = np.cumsum([0, *sizes])
    for i, weight in enumerate(weights):
        inside = order[(order >= starts[i]) & (order < starts[i + 1])]
        assert abs(len(inside) - weight / sum(weights) * sum(sizes)) < 1
        assert len(inside) == shares(weights, sum(sizes))[i]


@given(sources, st.integers(0, 5))
def test_over_epochs_no_row_of_a_source_is_ever_two_ahead_of_another(case, seed):
    sizes, weights = [size for size, _ in case], [weight for _, weight in case]
    seen = Counter(index for epoch in range(4) for index in epoch_order(sizes, weights, seed, epoch).tolist())
    starts = np.cumsum([0, *sizes])
    for i in range(len(sizes)):
        counts = [seen[index] for index in range(starts[i], starts[i + 1])]
        assert max(counts) - min(counts) <= 1


def test_sources_are_interleaved():
    order = epoch_order([500, 500], [1, 1], 0, 0)
    assert 180 < (order[:500] < 500).sum() < 320


def test_a_weighted_source_without_rows_is_refused():
    with pytest.raises(UserError, match="source 2"):
        epoch_order([5, 0], [1, 1], 0, 0)
