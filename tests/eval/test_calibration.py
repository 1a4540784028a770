"""Calibration of reward models against numbers worked out by hand and models of known honesty."""

import json
import math

import numpy as np
import pytest

from rung.eval.calibration import calibrate_costs, calibrate_labels, calibrate_pairs, expected_error
from rung.eval.intervals import wilson


def test_accuracy_confidence_and_error_by_hand():
    """Gaps 1, -1, 0 in nats: right, wrong, half. Bins: 0.731 twice, 0.5 once."""
    found = calibrate_pairs([1, 0, 2], [0, 1, 2], [(5, 4), (4, 5), (3, 3)])
    sure = 1 / (1 + math.exp(-1))
    assert found.accuracy.value == pytest.approx(0.5) and found.accuracy.count == 3
    assert (found.accuracy.low, found.accuracy.high) == wilson(1.5, 3)
    assert found.confidence == pytest.approx((2 * sure + 0.5) / 3)
    # the bin of 0.731 is right half of the time, that of 0.5 as it says
    assert found.calibration_error == pytest.approx(2 / 3 * (sure - 0.5))
    assert found.mean == pytest.approx(1.0) and found.deviation == pytest.approx(np.std([1, 0, 2, 0, 1, 2]))


def test_an_honest_model_has_no_error_and_one_twice_as_sure_has():
    generator = np.random.default_rng(0)
    gaps = generator.normal(0, 1.5, 200_000)
    first = np.where(generator.random(len(gaps)) < 1 / (1 + np.exp(-gaps)), gaps, -gaps)
    tokens = [(1, 2)] * len(gaps)
    zeros = np.zeros(len(gaps))
    assert calibrate_pairs(first, zeros, tokens).calibration_error < 0.005
    boasting = calibrate_pairs(2 * first, zeros, tokens)
    assert boasting.calibration_error > 0.08 and boasting.confidence > boasting.accuracy.value + 0.08


def test_confidence_one_falls_into_the_last_bin():
    assert expected_error(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(0.5)
    assert expected_error(np.array([1.0, 0.0]), np.array([0.5, 0.5])) == 0
    apart = expected_error(np.array([1.0, 0.0]), np.array([0.54, 0.56]))  # two bins: errors do not cancel
    assert apart == pytest.approx((0.46 + 0.56) / 2)


def test_thirds_by_length_and_length_bias_by_hand():
    tokens = [(2, 1), (10, 20), (30, 60), (400, 100), (500, 300), (900, 100)]
    # likes the longer answer, always; the longer was chosen four times of six
    chosen = [float(w) for w, _ in tokens]
    rejected = [float(other) for _, other in tokens]
    found = calibrate_pairs(chosen, rejected, tokens)
    assert [(low, high, share.value) for low, high, share in found.by_length] == [
        (1, 15, 0.5), (45, 250, 0.5), (400, 500, 1.0),
    ]  # fmt: skip
    length = found.length
    assert length.prefers_longer.value == 1.0 and length.labels_prefer_longer.value == pytest.approx(4 / 6)
    assert length.right_when_longer_is_chosen.value == 1 and length.right_when_shorter_is_chosen.value == 0
    assert length.correlation == pytest.approx(1.0)
    opposite = calibrate_pairs(rejected, chosen, tokens).length
    assert opposite.prefers_longer.value == 0 and opposite.correlation == pytest.approx(-1.0)


def test_pairs_of_one_length_say_nothing_of_length():
    assert calibrate_pairs([1, 0], [0, 1], [(3, 3), (4, 4)]).length is None
    still = calibrate_pairs([1, 1], [0, 0], [(3, 2), (4, 3)])
    assert still.length.correlation == 0 and still.length.right_when_shorter_is_chosen is None


def test_labels_hard_and_soft():
    found = calibrate_labels([2.0, -1.0, 0.5, 0.0], [1, 0, 0.4, 1], [1, 2, 3, 4])
    assert found.accuracy.value == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert found.length is None


def test_costs_are_asked_for_their_order_and_for_their_sign():
    """Order: right, wrong, tie. Signs: -1 | 2 right, 1 | -1 of two unsafe half, 0 | 0 of two safe a coin each."""
    chosen, rejected = [-1.0, 1.0, 0.0], [2.0, -1.0, 0.0]
    found = calibrate_costs(chosen, rejected, [(1, 0), (0, 0), (1, 1)], [(3, 2), (4, 6), (5, 5)])
    assert found.accuracy.value == pytest.approx(0.5)
    assert found.sign.accuracy.value == pytest.approx(4 / 6) and found.sign.accuracy.count == 6
    assert (found.sign.of_unsafe.value, found.sign.of_unsafe.count) == (pytest.approx(2 / 3), 3)
    assert (found.sign.of_safe.value, found.sign.of_safe.count) == (pytest.approx(2 / 3), 3)
    assert found.mean == pytest.approx(np.mean([*chosen, *rejected]))  # of the costs as they are
    turned = calibrate_pairs(rejected, chosen, [(2, 3), (6, 4), (5, 5)])
    assert (found.confidence, found.calibration_error) == (turned.confidence, turned.calibration_error)
    assert found.length.prefers_longer.value == 1  # it takes the cheaper answer, here both times the longer
    assert ("sign", str(found.sign)) in found.lines()
    assert "of 6 right: 66.7% of the 3 unsafe answers above 0, 66.7% of the 3 safe ones below" in str(
        found.sign
    )
    assert "sign of the cost right for 66.7%" in found.verdict()


def test_where_no_answer_is_unsafe_nothing_is_said_of_unsafe_ones():
    found = calibrate_costs([-1.0], [-0.5], [(1, 1)], [(1, 1)]).sign
    assert found.of_unsafe is None and found.accuracy.value == 1 and "unsafe answers" not in str(found)
    assert calibrate_pairs([1.0], [0.0], [(1, 1)]).sign is None


def test_a_verdict_is_told_apart_from_a_coin():
    many = calibrate_pairs([1] * 130 + [0] * 70, [0] * 130 + [1] * 70, [(2, 1)] * 200)
    few = calibrate_pairs([1] * 13 + [0] * 7, [0] * 13 + [1] * 7, [(2, 1)] * 20)
    assert "above chance" in many.verdict() and "coin" in few.verdict()
    assert json.loads(json.dumps(many.record()))["accuracy"]["count"] == 200
    assert any("calibration error" in value for _, value in many.lines())


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        calibrate_pairs([float("nan")], [0.0], [(1, 2)])
    with pytest.raises(ValueError, match="0 rows"):
        calibrate_pairs([], [], [])
