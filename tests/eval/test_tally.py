"""From samples to numbers: what was not scored is never a zero, and ballots elect what they should."""

import pytest

from rung.eval.records import Sample
from rung.eval.tally import compare_samples, majority_curve, scores_by_task, tally
from rung.rewards.score import Abstain, Failure, Score


def samples(table):
    """{"task": ["1" right, "0" wrong, "?" abstained, "!" failed, ...]}"""
    verdicts = {"1": Score(1.0), "0": Score(0.0), "?": Abstain("tie"), "!": Failure("crash")}
    return [
        Sample(t, i, c, [], "stop", verdicts[c], 5) for t, row in table.items() for i, c in enumerate(row)
    ]


def test_unscored_attempts_leave_the_accuracy_and_widen_the_bounds():
    found = tally(samples({"a": "11", "b": "0?", "c": "!!"}))
    assert found.accuracy.value == pytest.approx(2 / 3)
    assert (found.worst, found.best, found.unscored_tasks) == (2 / 6, 5 / 6, 1)
    assert found.worst <= found.accuracy.value <= found.best


def test_right_is_from_the_threshold_on():
    rows = [Sample("a", i, "", [], "stop", Score(v)) for i, v in enumerate((0.5, 1.0, 0.1))]
    assert tally(rows).accuracy.value == pytest.approx(1 / 3)
    assert tally(rows, correct_at=0.5).accuracy.value == pytest.approx(2 / 3)
    assert tally(rows).mean_score == pytest.approx(1.6 / 3)


def test_pass_at_k_leaves_out_tasks_without_a_score_and_says_so():
    found = tally(samples({"a": "10", "b": "00", "c": "?!"})).pass_at
    assert found.value.tolist() == [0.25, 0.5] and (found.problems, found.left_out) == (2, 1)


def test_two_models_are_paired_by_task_without_their_unscored_attempts():
    base, other = (
        samples({"a": "0", "b": "0", "c": "!", "d": "1"}),
        samples({"a": "1", "b": "1", "c": "1", "d": "1"}),
    )
    found = compare_samples(base, other)
    assert (found.tasks, found.left_out, found.wins, found.losses) == (3, 1, 2, 0)
    assert found.difference.value == pytest.approx(2 / 3) and found.test == "McNemar exact"
    assert scores_by_task(base) == {"a": [0.0], "b": [0.0], "c": [], "d": [1.0]}


def test_the_majority_votes_with_ballots():
    """Answers 4, 4, 5, none: of three, 4 wins unless one 4 meets 5 and the blank, which ties."""
    texts = [("4", 1.0), ("four", 1.0), ("5", 0.0), ("?", 0.0)]
    rows = [Sample("t", i, text, [], "stop", Score(value)) for i, (text, value) in enumerate(texts)]
    found = majority_curve(rows, {"4": "4", "four": "4", "5": "5"}.get)
    assert found.value.tolist() == pytest.approx(
        [2 / 4, (1 + 0.5 + 1 + 0.5 + 1 + 0) / 6, (2 + 0.5 + 0.5) / 4, 1]
    )


def test_unscored_attempts_do_not_vote():
    rows = samples({"t": "1??", "u": "!!"})
    assert majority_curve(rows, str).value.tolist() == [1.0] and majority_curve(rows, str).left_out == 1


def test_no_samples_are_no_numbers():
    with pytest.raises(ValueError, match="no samples"):
        tally([])
