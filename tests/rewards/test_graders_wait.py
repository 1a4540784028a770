"""A trusted reward that waits for another machine is called in a thread: whoever submits goes on."""

import threading
import time

from rung.rewards.score import Attempt, Failure, Score
from rung.rewards.workers import Graders


class Slow:
    trusted = waits = batched = True

    def __init__(self):
        self.go, self.busy, self.most, self.lock = threading.Event(), 0, 0, threading.Lock()

    def __call__(self, attempt):
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        self.go.wait(10)
        time.sleep(0.02)
        with self.lock:
            self.busy -= 1
        if attempt.answer == "bad":
            raise ValueError("no")
        return Score(len(attempt.answer))


def test_submitting_does_not_wait_and_verdicts_are_each_ones_own():
    reward = Slow()
    with Graders(reward) as graders:
        assert graders.batched
        handed = [graders.submit([Attempt((), "x" * n)]) for n in range(20)] + [
            graders.submit([Attempt((), "bad")])
        ]
        assert not any(each.done() for each in handed)
        reward.go.set()
        found = [each.verdicts(10)[0] for each in handed]
    assert [v.value for v in found[:-1]] == list(range(20))
    assert isinstance(found[-1], Failure) and "no" in found[-1].detail
    assert 2 <= reward.most <= 8
