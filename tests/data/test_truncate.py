"""Fitting a length: at least one token to learn or a counted reason, and the prompt never cut off."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.batch import Example
from rung.data.truncate import Dropped, truncate
from rung.errors import UserError


def example(prompt: int, answer: int) -> Example:
    return Example(np.arange(prompt + answer, dtype=np.int32), np.arange(prompt + answer) >= prompt, "x:1")


@given(st.integers(0, 12), st.integers(1, 12), st.integers(2, 20), st.sampled_from(["drop", "truncate"]))
def test_something_to_learn_or_a_reason(prompt, answer, max_length, overlong):
    before = example(prompt, answer)
    after = truncate(before, max_length, overlong)
    fits = prompt + answer <= max_length
    learnable = min(prompt + answer, max_length) > max(prompt, 1)
    if isinstance(after, Dropped):
        assert not (fits and learnable) and (overlong == "drop" or not learnable)
        return
    assert learnable and (fits or overlong == "truncate")
    assert after.trained[1:].any()
    assert after.token_ids.tolist() == before.token_ids[:max_length].tolist()
    assert after.trained.tolist() == before.trained[:max_length].tolist()
    assert after.origin == "x:1"


def test_reasons():
    assert truncate(example(3, 3), 5) == Dropped("longer than 5 tokens")
    assert truncate(example(5, 3), 5, "truncate") == Dropped("nothing to learn within 5 tokens")
    assert isinstance(truncate(example(0, 1), 5), Dropped)
    assert truncate(example(3, 2), 5) is not None


@pytest.mark.parametrize(("max_length", "overlong"), [(1, "drop"), (0, "truncate"), (5, "cut")])
def test_refusals(max_length, overlong):
    with pytest.raises(UserError):
        truncate(example(1, 1), max_length, overlong)
