"""Weighted sums by hand; a part that fails or abstains takes the whole with it and is named."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.errors import UserError
from rung.rewards.calling import as_verdict, judge, judge_all
from rung.rewards.combine import weighted
from rung.rewards.matching import Exact, Regex
from rung.rewards.score import Abstain, Attempt, Failure, Score
from rung.rewards.think_format import ThinkFormat


def test_the_sum_and_every_part():
    reward = weighted(right=(2.0, Exact()), form=(0.5, ThinkFormat()))
    text = "<think>a</think> so <answer>b</answer>"
    assert reward(Attempt((), text, "b")) == Score(
        2.0 * 1 + 0.5 * 0.75,
        {"right": 1, "form": 0.75, "form/think": 1, "form/answer": 1, "form/order": 1, "form/clean": 0},
    )
    assert reward(Attempt((), text, "c")).value == 0.375
    assert pickle.loads(pickle.dumps(reward)) == reward


class Says:
    def __init__(self, verdict):
        self.verdict = verdict

    def __call__(self, attempt):
        if isinstance(self.verdict, BaseException):
            raise self.verdict
        return self.verdict


ONE, TIE, BAD = Score(1.0), Abstain("a tie"), Failure("timeout", "too slow")


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ((ONE, TIE), Abstain("b: a tie")),
        ((BAD, ONE), Failure("timeout", "a: too slow")),
        ((TIE, BAD), Failure("timeout", "b: too slow")),
        ((ONE, None), "invalid"),
        ((ONE, float("nan")), "invalid"),
        ((ONE, ValueError("oh")), "exception"),
        ((1e308, 1e308), "invalid"),
    ],
)
def test_a_part_without_score_is_a_whole_without_score(parts, whole):
    verdict = weighted(a=(10.0, Says(parts[0])), b=(10.0, Says(parts[1])))(Attempt((), ""))
    if isinstance(whole, str):
        assert isinstance(verdict, Failure) and verdict.kind == whole
    else:
        assert verdict == whole


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=1, max_size=5))
def test_it_is_the_dot_product(terms):
    reward = weighted(**{f"r{i}": (weight, Says(Score(value))) for i, (weight, value) in enumerate(terms)})
    assert reward(Attempt((), "")).value == pytest.approx(sum(w * v for w, v in terms))


def test_trusted_only_if_all_are():
    assert weighted(a=(1, Exact()), b=(1, ThinkFormat())).trusted
    assert not weighted(a=(1, Exact()), b=(1, Regex("a"))).trusted


@pytest.mark.parametrize("terms", [{}, {"a": (float("nan"), Exact())}])
def test_a_sum_of_nothing_is_refused(terms):
    with pytest.raises(UserError):
        weighted(**terms)


class Many:
    """Takes several at once; the answer "bad" breaks the whole call."""

    def __init__(self):
        self.sizes = []

    def __call__(self, attempt):
        return self.many([attempt])[0]

    def many(self, attempts):
        self.sizes.append(len(attempts))
        if any(attempt.answer == "bad" for attempt in attempts):
            raise ValueError("bad")
        return [len(attempt.answer) for attempt in attempts if attempt.answer != "lost"]


def test_a_batch_that_fails_is_asked_again_one_at_a_time():
    reward = Many()
    good = [Attempt((), "a"), Attempt((), "bb")]
    assert judge_all(reward, good) == [Score(1), Score(2)] and reward.sizes == [2]
    verdicts = judge_all(reward, [*good, Attempt((), "bad")])
    assert verdicts[:2] == [Score(1), Score(2)] and verdicts[2].kind == "exception"
    verdicts = judge_all(reward, [*good, Attempt((), "lost")])
    assert verdicts[:2] == [Score(1), Score(2)] and isinstance(verdicts[2], Failure)


def test_a_sum_keeps_batches_whole():
    reward = Many()
    both = weighted(a=(1.0, reward), b=(1.0, Exact()))
    assert [v.value for v in judge_all(both, [Attempt((), "x", "x"), Attempt((), "yy", "x")])] == [2.0, 2.0]
    assert reward.sizes == [2]


def test_numbers_of_numpy_and_torch_count_and_nothing_is_guessed():
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    for one in (1, 1.0, True, numpy.float32(1), numpy.int64(1), numpy.array(1.0), torch.tensor(1.0)):
        assert as_verdict(one) == Score(1.0)
    for bad in (None, "1", [1.0], {}, 1j, float("nan"), float("inf"), 10**400, numpy.array([1.0]), object()):
        assert as_verdict(bad).kind == "invalid", bad
    assert as_verdict(Failure("bananas", 3)) == Failure("exception", "3")  # type: ignore[arg-type]
    assert as_verdict(Abstain("x")) == Abstain("x")


def test_an_interrupt_of_the_trainer_is_no_failure():
    with pytest.raises(KeyboardInterrupt):
        judge(Says(KeyboardInterrupt()), Attempt((), ""))
