"""CHES by hand, in its two scales, on any layout; the length bias of a data set."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.batch import Example, Pair, collate_pairs, prediction_sites
from rung.data.bias import length_bias
from rung.data.ches import ches, keep_lowest


def example(answer: int, first: int) -> Example:
    ids = np.array([5, 6, *range(first, first + answer)], np.int32)
    return Example(ids, np.arange(len(ids)) >= 2, "r")


def pair(chosen: int, rejected: int) -> Pair:
    return Pair(example(chosen, 10), example(rejected, 20))


def test_by_hand_with_the_last_prompt_token_counting_for_both():
    """States: prompt a, b; chosen c1 c2; rejected d1. b predicts c1 and d1, c1 predicts c2; S_w = b + c1, S_l = b."""
    batch = collate_pairs([pair(2, 1)])
    assert batch.lengths == (2, 2, 1)
    states_ND = torch.tensor([[9.0, 9.0], [1.0, 2.0], [3.0, 0.0], [7.0, 7.0], [8.0, 8.0]])
    found = ches(states_ND, batch)
    assert found.raw_P.tolist() == [(4 * 1 + 2 * 2) - (16 + 4)]
    assert found.normalised_P.tolist() == [(2 * 1 + 1 * 2) - (4 + 1)]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4), st.integers(0, 9))
def test_against_the_definition_pair_by_pair(sizes, seed):
    batch = collate_pairs([pair(*size) for size in sizes])
    states_ND = torch.randn(len(batch.token_ids_N), 3, generator=torch.Generator().manual_seed(seed))
    found = ches(states_ND, batch)
    document_N = torch.repeat_interleave(torch.tensor(batch.lengths))
    sites, tokens = prediction_sites(batch)
    for place, (w, l) in enumerate(batch.pairs):  # noqa: E741
        s_w, s_l = (
            sum(states_ND[s].double() for s, t in zip(sites, tokens, strict=True) if document_N[t] == d)
            for d in (w, l)
        )
        n_w, n_l = sizes[place]
        assert found.raw_P[place].item() == pytest.approx(float(s_w @ s_l - s_w @ s_w), abs=1e-9)
        expected = float(s_w @ s_l / (n_w * n_l) - s_w @ s_w / n_w**2)
        assert found.normalised_P[place].item() == pytest.approx(expected, abs=1e-9)


def test_equal_states_score_zero_and_the_filter_takes_the_highest():
    batch = collate_pairs([pair(2, 2)])
    assert ches(torch.ones(len(batch.token_ids_N), 3), batch).raw_P.tolist() == [0]
    assert keep_lowest([3.0, -1.0, 0.0, 5.0, -2.0], 0.4) == [1, 2, 4]
    assert keep_lowest([3.0, -1.0], 0.0) == [0, 1]


def test_longer_answers_chosen_beyond_doubt_are_reported_with_the_figure():
    found = length_bias([pair(4, 1)] * 80 + [pair(1, 4)] * 20 + [pair(2, 2)] * 50)
    assert (found.pairs, found.longer_chosen) == (100, 0.8)
    assert (found.low, found.high) == pytest.approx((0.711, 0.867), abs=1e-3)  # Wilson, 80 of 100
    assert "longer answer is chosen in 80.0% of 100" in found.warning()
    assert "shorter" in length_bias([pair(1, 4)] * 100).warning()


def test_few_or_balanced_pairs_give_no_warning():
    assert length_bias([pair(4, 1)] * 3).warning() == ""
    assert length_bias([pair(4, 1), pair(1, 4)] * 300).warning() == ""
    assert length_bias([pair(2, 2)] * 10).warning() == ""
