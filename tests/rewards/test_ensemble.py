"""Ensembles and step scores by hand."""

import math

import numpy as np
import pytest

from rung.errors import UserError
from rung.rewards.ensemble import aggregated, combined, standardised

SCORES = np.array([[1.0, 4.0, -2.0], [3.0, 4.0, 0.0], [2.0, 4.0, 8.0]])


def test_mean_worst_and_uncertain_by_hand():
    assert combined(SCORES, "mean").tolist() == [2, 4, 2]
    assert combined(SCORES, "worst").tolist() == [1, 4, -2]
    spread = [2 / 3, 0, (16 + 4 + 36) / 3]
    assert combined(SCORES, "uncertain", 0.5).tolist() == pytest.approx(
        [2 - spread[0] / 2, 4, 2 - spread[2] / 2]
    )
    assert combined(SCORES, "uncertain", 0.0).tolist() == combined(SCORES, "mean").tolist()


def test_one_member_is_itself_however_combined():
    one = SCORES[:1]
    for combine in ("mean", "worst", "uncertain"):
        assert combined(one, combine, 3.0).tolist() == one[0].tolist()


def test_members_are_brought_to_one_scale():
    """A member whose scores are another's times ten plus five says the same."""
    first = np.array([1.0, -1.0, 0.5])
    both = np.stack([first, 10 * first + 5])
    found = standardised(both, [first.mean(), both[1].mean()], [first.std(), both[1].std()])
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)
    assert found.mean() == pytest.approx(0) and found[0].std() == pytest.approx(1)


def test_steps_by_hand():
    steps = [0.9, 0.5, 0.8]
    assert aggregated(steps, "min") == 0.5 and aggregated(steps, "last") == 0.8
    assert aggregated(steps, "product") == pytest.approx(0.36)
    assert aggregated(steps, "mean") == pytest.approx(2.2 / 3)
    assert aggregated(steps, "product") == pytest.approx(math.exp(sum(map(math.log, steps))))


def test_what_is_not_known_is_refused_with_what_is():
    with pytest.raises(UserError, match="mean, worst, uncertain"):
        combined(SCORES, "best")
    with pytest.raises(UserError, match="min, product, last, mean"):
        aggregated([0.5], "max")
    with pytest.raises(ValueError, match="without steps"):
        aggregated([], "min")
