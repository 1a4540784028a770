"""Best-of-n against enumeration of every subset."""

from itertools import combinations

import numpy as np
import pytest

from rung.errors import UserError
from rung.eval.bestofn import best_curve, best_index


def by_subsets(proxy, value, k):
    best = [value[max(subset, key=lambda i: proxy[i])] for subset in combinations(range(len(proxy)), k)]
    return float(np.mean(best))


def test_the_curve_is_the_mean_over_all_subsets_and_tasks():
    generator = np.random.default_rng(0)
    proxy = {f"t{i}": generator.permutation(6).astype(float).tolist() for i in range(4)}
    value = {task: generator.normal(size=6).tolist() for task in proxy}
    found = best_curve(proxy, value)
    for k in range(1, 7):
        expected = np.mean([by_subsets(proxy[task], value[task], k) for task in proxy])
        assert found.value[k - 1] == pytest.approx(expected)
    assert found.problems == 4 and (found.low <= found.value).all() and (found.value <= found.high).all()


def test_a_proxy_that_is_the_value_finds_the_best_and_its_opposite_the_worst():
    value = {"a": [0.0, 1.0, 0.5]}
    assert best_curve(value, value).value[-1] == 1
    assert best_curve({"a": [0.0, -1.0, -0.5]}, value).value[-1] == 0
    assert best_curve({"a": [2.0, 2.0, 2.0]}, value).value.tolist() == pytest.approx([0.5] * 3)


def test_what_has_no_score_or_verdict_is_left_out_not_counted_as_zero():
    proxy = {"a": [3.0, None, 1.0, 2.0], "b": [1.0, 2.0, 3.0, 4.0], "c": [None] * 4}
    value = {"a": [1.0, 1.0, 0.0, None], "b": [0.0, 0.0, 1.0, 1.0], "c": [1.0] * 4}
    found = best_curve(proxy, value)
    assert len(found.k) == 2 and found.left_out == 1
    # a: values 1 (proxy 3) and 0 (proxy 1); b at k=2: 1 in every pair but the two lowest
    assert found.value.tolist() == pytest.approx([(0.5 + 0.5) / 2, (1 + 5 / 6) / 2])
    with pytest.raises(UserError, match="there is no curve"):
        best_curve({"c": [None]}, {"c": [1.0]})


def test_the_best_is_the_first_of_the_highest():
    assert best_index([1.0, None, 3.0, 3.0]) == 2 and best_index([None]) is None
