"""The progress line: what it shows, what a narrow terminal drops, how seldom a log file hears of it."""

import io

import pytest
from rich.console import Console

from rung.progress import PLAIN_INTERVAL, duration, fit, progress

METRICS = {"loss": 2.34567, "tokens_per_second": 1234.5, "mfu": 0.314, "memory": 3.86, "learning_rate": 1e-4}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(total: int, steps: range, seconds: float) -> list[str]:
    stream, clock = io.StringIO(), Clock()
    with progress(total, Console(file=stream), clock) as line:
        for step in steps:
            clock.now += seconds
            line.update(step, METRICS)
    return stream.getvalue().splitlines()


def test_a_plain_line_holds_everything_and_the_time_left_follows_from_the_pace():
    lines = plain(10, range(1, 5), PLAIN_INTERVAL)
    # 6 steps are left after step 4, 5 seconds each
    assert lines[-1] == ("step 4/10  loss 2.3457  1,234 tok/s  0:30 left  31% of peak  3.9 GB  lr 1.00e-04")
    assert len(lines) == 4


def test_plain_lines_are_rare_but_never_miss_the_first_and_the_last():
    lines = plain(1000, range(1, 1001), PLAIN_INTERVAL / 64)
    assert [int(line.split("/")[0].split()[1]) for line in lines] == [1, *range(65, 1000, 64), 1000]
    assert [line.split()[1] for line in plain(100, range(1, 4), 0.1)] == ["1/100", "3/100"]  # stopped early


def test_the_time_left_counts_from_the_step_a_run_resumed_at():
    assert "0:20 left" in plain(100, range(95, 97), 5.0)[-1]  # 4 steps of 5 seconds


@pytest.mark.parametrize("width", range(1, 100))
def test_a_narrow_terminal_drops_parts_from_the_end_and_never_wraps(width):
    shown = ["step 4/10", "loss 2.3457", "12 tok/s"]
    text = fit(shown, width)
    assert len(text) <= width
    if width >= len(shown[0]):
        assert "  ".join(shown).startswith(text) and text.split("  ")[-1] in shown


@pytest.mark.parametrize("width", [24, 50, 120])
def test_in_a_terminal_the_line_is_redrawn_in_place(width):
    stream = io.StringIO()
    with progress(10, Console(file=stream, force_terminal=True, width=width), Clock()) as line:
        for step in range(1, 4):
            line.update(step, METRICS)
    output = stream.getvalue()
    assert "step 3/10  loss 2.3457" in output
    assert output.count("\n") == 1  # one line on screen, however many updates
    assert ("lr 1.00e-04" in output) == (width == 120)


def test_a_value_keeps_standing_until_the_next():
    stream = io.StringIO()
    with progress(2, Console(file=stream), Clock()) as line:
        line.update(1, {"loss": 1.0, "eval_loss": 0.5})
        line.update(2, {"loss": 0.9})
    assert "held-out 0.5000" in stream.getvalue().splitlines()[-1]


def test_reinforcement_shows_its_reward_before_the_loss():
    """The loss of a policy gradient is about 0 whether it learns or not."""
    stream = io.StringIO()
    with progress(2, Console(file=stream), Clock()) as line:
        line.update(1, {**METRICS, "loss": -1e-9, "reward": 0.25, "heldout_score": 0.375})
    assert stream.getvalue().splitlines()[-1] == (
        "step 1/2  reward 0.250  held-out 0.375  1,234 tok/s  31% of peak  3.9 GB  lr 1.00e-04  loss 0.0000"
    )


def test_durations():
    assert [duration(s) for s in (0, 59.6, 754, 12000)] == ["0:00", "1:00", "12:34", "3:20:00"]
