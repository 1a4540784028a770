"""Evidence that may be looked at after every round: a test by betting, and a lower bound on a mean.

Looking at a p-value every round and stopping at the first below 0.05 alarms for certain in the end. A bet does
not. Start with 1; before each round put some of it on "the mean of what comes is above m", at fair odds for m.
If it is not above m the expected wealth never grows, and by Ville's inequality

    P(the wealth ever reaches 1 / alpha) <= alpha,      over a run of any length, looked at whenever one likes.

`Bet` tests H0: in every round, given the past, the mean of the round's items is at most m. Items lie in [0, 1] and
are independent within a round given the past (groups of rollouts drawn from one policy are); their means may
differ between items and drift between rounds, as long as the round's average stays at or below m. A round with
items x_1..x_n multiplies a bet of size L, 0 <= L <= 1/m, by

    f = prod_i (1 + L (x_i - m)),    E f = prod_i (1 + L (p_i - m)) <= (1 + L (mean p - m))^n <= 1

(independence, then geometric mean <= arithmetic mean). Nobody knows when trouble starts or how bad it is, so the
start capital is spread over start times, w_t = 1/(t (t+1)) put in at round t, and over five sizes L. For one L

    M_t = (M_{t-1} + w_t) f_t,      wealth = mean over L of M_t + what is not put in yet, 1/(t+1),

which is again a fair game: E wealth_t <= wealth_{t-1}. Trouble from round t on therefore costs only about
log(t (t+1)) + log 5 nats more evidence than trouble from the start, however long the run was healthy.
(Ville 1939; Waudby-Smith and Ramdas 2024 for bets on bounded means; Shiryaev 1963 for the unknown start.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

SIZES = (0.03, 0.1, 0.3, 0.6, 0.95)  # of the largest bet that cannot go bankrupt below 0, which is 1/m
NOTHING = -1e300  # the log of no money; finite, so that a state can be written as JSON


@dataclass
class Bet:
    """Wealth against "the mean is at most `mean`". Its state is two plain fields, so that a run can be resumed."""

    mean: float
    rounds: int = 0
    log_stakes: list[float] = field(default_factory=lambda: [NOTHING] * len(SIZES))

    def __post_init__(self) -> None:
        if not 0 < self.mean < 1:
            raise ValueError(f"a bet on a mean of {self.mean}: it must lie between 0 and 1")

    def update(self, items: Sequence[float]) -> float:
        """Play one round, without items none; the log of the wealth after it."""
        if len(items):
            self.rounds += 1
            put_in = -math.log(self.rounds * (self.rounds + 1))
            margins = np.asarray(items, dtype=np.float64) / self.mean - 1  # (x - m) / m
            gains = np.log1p(np.outer(SIZES, margins)).sum(axis=1)
            self.log_stakes = [
                log_add(stake, put_in) + float(gain)
                for stake, gain in zip(self.log_stakes, gains, strict=True)
            ]
        return self.log_wealth()

    def log_wealth(self) -> float:
        stakes = NOTHING
        for stake in self.log_stakes:
            stakes = log_add(stakes, stake)
        return log_add(stakes - math.log(len(SIZES)), -math.log(self.rounds + 1))


def log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))


def lower_bound(mean: float, count: int, risk: float) -> float:
    """What the true mean exceeds with probability at least 1 - risk, from the mean of `count` values in [0, 1].

    Chernoff's bound in Hoeffding's form: for independent values whose expectations average to p,
    P(observed >= a) <= exp(-count kl(a || p)) for a > p, so the smallest p with count kl(mean || p) <= log(1/risk)
    fails with probability at most risk. Found by bisection.
    """
    allowed = math.log(1 / risk) / count
    low, high = 0.0, mean
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if divergence(mean, middle) <= allowed else (middle, high)
    return low


def divergence(a: float, p: float) -> float:
    """KL of a coin with bias a from one with bias p, in nats."""
    parts = [(a, p), (1 - a, 1 - p)]
    if any(x > 0 and q <= 0 for x, q in parts):
        return math.inf
    return sum(x * math.log(x / q) for x, q in parts if x > 0)
