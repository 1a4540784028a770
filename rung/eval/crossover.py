"""Where the base model's pass@k overtakes the RL model's, if it does (arXiv 2504.13837).

RL usually wins at k = 1; whether it also taught something that the base could not sample at all shows at
large k. k* is where the two mean curves cross, in log k. Curves need not cross within the samples there are,
and problems are few, so the answer is a verdict with an interval that may reach beyond the largest k:

    crosses      RL is ahead at k = 1 and the base at the largest k, both beyond their 95 % intervals
    base ahead   the base is ahead at k = 1 already
    rl ahead     RL is ahead at the largest k still
    undecided    the problems do not tell
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log

import numpy as np

from rung.eval.intervals import DRAWS, percentiles, replicates
from rung.eval.paired import sign_test


@dataclass(frozen=True)
class Crossover:
    """`k` is 0 if the base is ahead from the start, infinite if it never gets ahead within the samples."""

    verdict: str
    k: float
    low: float
    high: float
    most: int  # the largest k there is
    at_one: tuple[float, float, float]  # RL - base at k = 1, with its interval
    at_most: tuple[float, float, float]  # the same at the largest k
    p_at_most: float  # sign test across problems at the largest k
    only_base: int  # problems solved at least once by the base alone
    only_rl: int
    both: int

    def __str__(self) -> str:
        def shown(k: float) -> str:
            return "before 1" if k == 0 else f"beyond {self.most}" if k == inf else f"{k:.3g}"

        return f"{self.verdict}: k* {shown(self.k)}, 95 % interval {shown(self.low)} to {shown(self.high)}"


def crossover(base_PK: np.ndarray, rl_PK: np.ndarray, seed: int = 0) -> Crossover:
    """Per-problem pass@k of both models, k = 1..K, on the same problems in the same order."""
    if base_PK.shape != rl_PK.shape or base_PK.size == 0:
        raise ValueError(f"both need the same problems and k, not {base_PK.shape} and {rl_PK.shape}")
    ahead_PK = rl_PK - base_PK
    drawn = replicates(lambda units: ahead_PK[units].mean(0), len(ahead_PK), DRAWS, seed)
    low_K, high_K = percentiles(drawn)
    mean_K = ahead_PK.mean(0)
    crossings = np.array([crossing(row) for row in drawn])
    low, high = percentiles(crossings)
    base_solved, rl_solved = base_PK[:, -1] > 0, rl_PK[:, -1] > 0
    return Crossover(
        verdict=verdict((low_K[0], high_K[0]), (low_K[-1], high_K[-1])),
        k=crossing(mean_K),
        low=float(low),
        high=float(high),
        most=ahead_PK.shape[1],
        at_one=(float(mean_K[0]), float(low_K[0]), float(high_K[0])),
        at_most=(float(mean_K[-1]), float(low_K[-1]), float(high_K[-1])),
        p_at_most=sign_test(int((ahead_PK[:, -1] > 0).sum()), int((ahead_PK[:, -1] < 0).sum())),
        only_base=int((base_solved & ~rl_solved).sum()),
        only_rl=int((rl_solved & ~base_solved).sum()),
        both=int((base_solved & rl_solved).sum()),
    )


def verdict(at_one: tuple[float, float], at_most: tuple[float, float]) -> str:
    if at_one[0] > 0 and at_most[1] < 0:
        return "crosses"
    if at_one[1] < 0:
        return "base ahead"
    if at_most[0] > 0:
        return "rl ahead"
    return "undecided"


def crossing(ahead_K: np.ndarray) -> float:
    """The last k at which RL's lead turns into the base's, on a straight line in log k between the two.

    Meeting is not crossing: curves that both reach 1 touch there, and nobody has overtaken anybody.
    """
    leads = np.flatnonzero(np.abs(ahead_K) > 1e-12)
    if not len(leads):
        return inf
    behind = ahead_K[leads] < 0
    if not behind[-1]:
        return inf
    if behind.all():
        return 0.0
    last = int(np.flatnonzero(~behind)[-1])
    before, after = leads[last], leads[last + 1]
    share = ahead_K[before] / (ahead_K[before] - ahead_K[after])
    return exp(log(before + 1) + share * (log(after + 1) - log(before + 1)))
