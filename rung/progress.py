"""The one line a running run shows: step, loss or reward, speed, share of the machine, memory, time left.

In a terminal it is redrawn in place and drops its least needed parts where the window is narrow, rather
than wrap. Without a terminal it is a plain line now and then, so that a log file stays readable.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_INTERVAL = 5.0  # seconds between plain lines; the first and the last step are always shown


@dataclass
class Line:
    """The state of the progress line. `update` is cheap; drawing happens at most a few times a second."""

    total_steps: int
    console: Console
    clock: Callable[[], float]
    live: Live | None = None
    # (time, step) of recent updates: the speed behind the time left, robust to one slow save
    recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=50))
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    printed_at: float | None = None
    printed_step: int = -1

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show a step. A number absent this time (a held-out loss, say) keeps its last value."""
        self.step = step
        self.metrics |= metrics
        now = self.clock()
        self.recent.append((now, step))
        if self.live is not None:
            self.live.update(self.text())
        elif self.printed_at is None or now - self.printed_at >= PLAIN_INTERVAL:
            self.print_plain(now)

    def print_plain(self, now: float) -> None:
        if self.step != self.printed_step:
            self.console.print("  ".join(parts(self)), soft_wrap=True, highlight=False, markup=False)
            self.printed_at, self.printed_step = now, self.step

    def text(self) -> Text:
        return Text(fit(parts(self), self.console.width), no_wrap=True)

    def seconds_left(self) -> float | None:
        (first_time, first_step), (last_time, last_step) = self.recent[0], self.recent[-1]
        if last_step == first_step:
            return None
        return (self.total_steps - last_step) * (last_time - first_time) / (last_step - first_step)


@contextmanager
def progress(
    total_steps: int, console: Console | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Line]:
    """`with progress(total, console) as line: line.update(step, metrics)`."""
    line = Line(total_steps, console or Console(), clock)
    if not line.console.is_terminal:
        yield line
        if line.recent:
            line.print_plain(clock())
        return
    with Live(Text("starting"), console=line.console, refresh_per_second=4) as live:
        line.live = live
        yield line


def parts(line: Line) -> list[str]:
    """What the line shows, the most needed first; a value that was never given takes no room."""
    metrics, left = line.metrics, line.seconds_left()
    shown = [f"step {line.step}/{line.total_steps}"]
    loss = f"loss {metrics['loss']:z.4f}" if "loss" in metrics else ""
    if "reward" in metrics:  # a policy gradient's loss is about 0 whether it learns or not, and comes last
        shown.append(f"reward {metrics['reward']:.3f}")
    elif loss:
        shown.append(loss)
    if "heldout_score" in metrics:
        shown.append(f"held-out {metrics['heldout_score']:.3f}")
    if "tokens_per_second" in metrics:
        shown.append(f"{metrics['tokens_per_second']:,.0f} tok/s")
    if left is not None:
        shown.append(f"{duration(left)} left")
    if "mfu" in metrics:
        shown.append(f"{metrics['mfu']:.0%} of peak")
    if "memory" in metrics:
        shown.append(f"{metrics['memory']:.1f} GB")
    if "eval_loss" in metrics:
        shown.append(f"held-out {metrics['eval_loss']:.4f}")
    if "learning_rate" in metrics:
        shown.append(f"lr {metrics['learning_rate']:.2e}")
    if loss and loss not in shown:
        shown.append(loss)
    return shown


def fit(shown: list[str], width: int) -> str:
    """As many of the first parts as the width holds."""
    text = shown[0]
    for part in shown[1:]:
        if len(text) + 2 + len(part) > width:
            break
        text += "  " + part
    return text[:width]


def duration(seconds: float) -> str:
    """`0:42`, `12:05`, `3:20:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
