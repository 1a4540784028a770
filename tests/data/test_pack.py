"""Packing: every document once, no bin over capacity, best fit as defined, never worse than the bound."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.data.pack import RoomTree, pack
from rung.errors import UserError

lengths_and_capacity = st.integers(1, 60).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=60), st.just(capacity))
)


def test_best_fit_decreasing_by_hand():
    # 6 opens a bin (4 left); 5 opens another (5 left); 4 fits the first exactly, though the second has more
    # room; 3 goes to the second (2 left), then 2 fills it.
    assert pack([3, 6, 2, 5, 4], 10) == [[1, 4], [3, 0, 2]]


def naive(lengths, capacity):
    """The definition: longest first, into the fullest bin that still has room."""
    bins = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rooms = [capacity - sum(lengths[i] for i in one) for one in bins]
        fitting = [room for room in rooms if room >= lengths[index]]
        if fitting:
            bins[rooms.index(min(fitting))].append(index)
        else:
            bins.append([index])
    return bins


@given(lengths_and_capacity)
def test_every_document_once_and_fills_as_the_definition(case):
    lengths, capacity = case
    bins = pack(lengths, capacity)
    assert sorted(index for one in bins for index in one) == list(range(len(lengths)))
    fills = sorted(sum(lengths[i] for i in one) for one in bins)
    assert not fills or (fills[0] > 0 and fills[-1] <= capacity)
    assert fills == sorted(sum(lengths[i] for i in one) for one in naive(lengths, capacity))
    assert bins == pack(lengths, capacity)


@given(st.sets(st.integers(0, 100)), st.integers(0, 100))
def test_room_tree_finds_the_smallest_from(members, start):
    tree = RoomTree(100)
    for member in members:
        tree.set(member, True)
    assert tree.smallest_from(start) == min((m for m in members if m >= start), default=None)
    for member in members:
        tree.set(member, False)
    assert tree.smallest_from(start) is None


@pytest.mark.parametrize("length", [0, 11])
def test_a_document_that_cannot_fit_is_refused(length):
    with pytest.raises(UserError, match=f"document 1 has {length} tokens and a bin holds 1 to 10"):
        pack([3, length], 10)


def test_nothing_to_pack():
    assert pack([], 8) == []


def test_a_hundred_thousand_documents_take_about_a_second():
    lengths = [(i * 7919) % 4096 + 1 for i in range(100_000)]
    start = time.perf_counter()
    bins = pack(lengths, 4096)
    assert time.perf_counter() - start < 10  # quadratic code takes minutes
    assert len(bins) < 1.02 * sum(lengths) / 4096 + 1
