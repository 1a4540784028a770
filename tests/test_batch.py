"""Documents end to end and the one token shift: no target crosses a boundary or is lost."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.batch import Batch, Example, collate, prediction_sites


def example(ids, trained, origin="row"):
    return Example(np.array(ids, np.int32), np.array(trained, bool), origin)


def sites(batch: Batch):
    return [part.tolist() for part in prediction_sites(batch)]


def test_the_example_of_the_docstring():
    batch = collate([example([7, 8, 9], [0, 0, 1], "a:1"), example([5, 6], [0, 1], "a:2")])
    assert batch.token_ids_N.tolist() == [7, 8, 9, 5, 6]
    assert batch.positions_N.tolist() == [0, 1, 2, 0, 1]
    assert batch.trained_N.tolist() == [False, False, True, False, True]
    assert (batch.lengths, batch.origins, len(batch)) == ((3, 2), ("a:1", "a:2"), 2)
    assert sites(batch) == [[1, 3], [2, 4]]


def test_the_token_before_a_boundary_predicts_nothing_and_the_last_target_of_a_document_stays():
    """Errata 2: masking the wrong side of the shift leaks 8 -> 5 and loses 7 -> 8."""
    batch = collate([example([7, 8], [1, 1]), example([5, 6], [1, 1])])
    assert sites(batch) == [[0, 2], [1, 3]]
    assert batch.trained_N.tolist() == [False, True, False, True]


def test_a_boundary_holds_even_against_the_mask():
    batch = collate([example([7, 8], [1, 1]), example([5, 6], [1, 1])])
    lying = Batch(
        batch.token_ids_N, batch.positions_N, torch.ones(4, dtype=torch.bool), batch.lengths, batch.origins
    )
    assert sites(lying) == [[0, 2], [1, 3]]


def test_ids_say_nothing_of_padding():
    """Errata 3: an end token that is also the padding token, and token 0, are targets like any other."""
    batch = collate([example([3, 2, 2], [0, 1, 1]), example([3, 0, 2], [0, 1, 1])])
    assert sites(batch) == [[0, 1, 3, 4], [1, 2, 4, 5]]


def test_collate_leaves_its_examples_alone():
    mine = example([1, 2], [1, 1])
    batch = collate([mine])
    batch.trained_N[:] = False
    batch.token_ids_N[:] = 0
    assert mine.trained.tolist() == [True, True]
    assert mine.token_ids.tolist() == [1, 2]


def test_nothing_trained_gives_no_sites():
    tokens, targets = prediction_sites(collate([example([4], [1]), example([5, 6], [0, 0])]))
    assert (len(tokens), len(targets)) == (0, 0)
    assert tokens.dtype == torch.int64


documents = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=6), min_size=1, max_size=5
)


@given(documents)
def test_the_shift_is_what_each_document_says_alone(rows):
    batch = collate([example([t for t, _ in row], [m for _, m in row]) for row in rows])
    expected, start = [], 0
    for row in rows:
        expected += [(start + t - 1, start + t) for t in range(1, len(row)) if row[t][1]]
        start += len(row)
    assert list(zip(*sites(batch), strict=True)) == expected
    assert all(0 <= site < start for site, _ in expected)
    assert batch.token_ids_N.tolist() == [t for row in rows for t, _ in row]
    assert batch.to("cpu").lengths == tuple(len(row) for row in rows)


def test_branches_share_the_untrained_beginning_and_its_last_token_predicts_each_of_them():
    rows = [
        example([1, 2, 3, 4], [0, 0, 1, 1], "a"),
        example([1, 2, 5], [0, 0, 1], "b"),
        example([9, 8], [0, 1], "c"),
    ]
    batch = collate(rows, [2, 1])
    assert batch.token_ids_N.tolist() == [1, 2, 3, 4, 5, 9, 8]
    assert batch.positions_N.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert (batch.lengths, batch.parents) == ((2, 2, 1, 2), (-1, 0, 0, -1))
    assert batch.origins == ("a", "a", "b", "c")
    assert sites(batch) == [[1, 2, 1, 5], [2, 3, 4, 6]]


def test_a_shared_beginning_ends_before_a_trained_token_and_leaves_every_branch_a_token():
    alike = [example([1, 2, 3], [0, 1, 1]), example([1, 2, 3], [0, 1, 1])]
    assert collate(alike, [2]).lengths == (1, 2, 2)
    untrained = [example([1, 2], [0, 0]), example([1, 2, 3], [0, 0, 1])]
    assert collate(untrained, [2]).lengths == (1, 1, 2)
    assert collate([example([1, 2], [0, 1]), example([3, 2], [0, 1])], [2]).parents == ()


def test_columns_follow_their_tokens_into_trunk_and_branches():
    def row(ids, trained, values):
        return Example(
            np.array(ids, np.int32), np.array(trained, bool), "r", {"advantage": np.array(values, np.float32)}
        )

    batch = collate(
        [row([1, 2, 3], [0, 0, 1], [0, 0, 0.5]), row([1, 2, 4, 5], [0, 0, 1, 1], [0, 0, -1, 2])], [2]
    )
    assert batch.columns["advantage"].tolist() == [0, 0, 0.5, -1, 2]
    assert batch.column("advantage").tolist() == [0.5, -1, 2]
    with pytest.raises(KeyError, match="old_logprob"):
        batch.column("old_logprob")


def test_groups_must_name_every_document():
    with pytest.raises(ValueError, match="fewer"):
        collate([example([1, 2], [0, 1])] * 3, [2])
