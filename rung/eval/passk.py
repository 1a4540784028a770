"""What k attempts are worth: pass@k, maj@k and best-of-n, exact averages over all ways to pick k of n samples.

    pass@k     any of the k is right             1 - C(n-c, k) / C(n, k)          (2107.03374; 2504.13837)
    maj@k      the most frequent answer is right, ties split evenly
    best@k     the one that a proxy likes best, and what it is truly worth        (2210.10760)

All three are unbiased for k fresh samples, because they average over subsets without repetition instead of
plugging a share into 1 - (1 - p)^k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from rung.eval.intervals import DRAWS, percentiles, replicates, wilson


def pass_at(attempts: int, correct: int) -> np.ndarray:
    """pass@k for k = 1..attempts.

    C(n-c, k) / C(n, k) = prod_{i<k} (n-c-i) / (n-i): one running product, no binomial that overflows.
    """
    if not 0 <= correct <= attempts or attempts < 1:
        raise ValueError(f"{correct} correct of {attempts} attempts is impossible")
    taken = np.arange(attempts)
    return 1 - np.cumprod(np.maximum(attempts - correct - taken, 0) / (attempts - taken))


def best_of(proxy: Sequence[float], value: Sequence[float]) -> np.ndarray:
    """For k = 1..n the mean of `value` at the sample with the highest `proxy` among k of the n.

    The i-th smallest by proxy is the best of C(i-1, k-1) of the C(n, k) subsets. Equal proxies are chosen
    between at random, which is what giving each of them their mean value computes.
    """
    proxies, values = np.asarray(proxy, float), np.asarray(value, float)
    count = len(proxies)
    if count == 0 or values.shape != proxies.shape or not np.isfinite(proxies).all():
        raise ValueError(f"best-of-n needs one finite proxy per value, and got {count} for {len(values)}")
    _, block = np.unique(proxies, return_inverse=True)  # blocks are numbered in ascending order of the proxy
    means = np.bincount(block, values) / np.bincount(block)
    ordered = means[np.sort(block)]
    weights_kn = np.zeros((count, count))
    for k in range(1, count + 1):
        # From the best downward: w(n) = k/n, w(i-1) = w(i) (i-k) / (i-1), with i counted from 1.
        i = np.arange(count, k, -1)
        weights_kn[k - 1, k - 1 :] = (k / count * np.cumprod(np.concatenate([[1.0], (i - k) / (i - 1)])))[
            ::-1
        ]
    return weights_kn @ ordered


def majority_at(votes: Sequence[int], correct: Sequence[bool], blank: int = 0) -> np.ndarray:
    """maj@k for k = 1..n: the chance that the most frequent of k answers is right, ties split evenly.

    `votes[a]` samples gave answer a, and `correct[a]` says whether it is right; `blank` samples gave no answer
    and elect nobody. Exact: for answer a with j votes, the other answers cast at most j each, and t of them
    just j, in so many ways; a then wins 1 / (t + 1) of them.
    """
    if len(votes) != len(correct) or any(v < 1 for v in votes) or blank < 0:
        raise ValueError("every answer needs one verdict and at least one vote")
    total = sum(votes) + blank
    if total < 1 or total > 1000:
        raise ValueError(f"maj@k is computed for 1 to 1000 samples, and there are {total}")
    ways = np.zeros(total + 1)
    for answer, own in enumerate(votes):
        if correct[answer]:
            others = [v for other, v in enumerate(votes) if other != answer]
            for j in range(1, own + 1):
                wins = _wins(others, j, blank)
                ways[j : j + len(wins)] += comb(own, j) * wins
    return ways[1:] / np.array([float(comb(total, k)) for k in range(1, total + 1)])


def _wins(others: Sequence[int], most: int, blank: int) -> np.ndarray:
    """`[s]`: ways to draw s samples of the others, none above `most` votes, each way over ties + 1."""
    size = sum(others) + blank
    ways_ts = np.zeros((sum(v >= most for v in others) + 1, size + 1))
    ways_ts[0, : blank + 1] = [comb(blank, s) for s in range(blank + 1)]
    for votes in others:
        grown = ways_ts.copy()  # none of this answer
        for j in range(1, min(votes, most) + 1):
            part = comb(votes, j) * ways_ts[:, :-j]
            if j < most:
                grown[:, j:] += part
            else:
                grown[1:, j:] += part[:-1]
        ways_ts = grown
    return (ways_ts / np.arange(1, len(ways_ts) + 1)[:, None]).sum(0)


@dataclass(frozen=True)
class Curve:
    """The mean over problems for each k, with a band from resampling problems."""

    k: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    problems: int
    left_out: int = 0  # problems with fewer samples than the largest k


def pass_curve(
    attempts: Sequence[int], correct: Sequence[int], most: int | None = None, seed: int = 0
) -> Curve:
    """pass@k over problems. Problems with fewer than `most` scored attempts are left out and counted.

    Unless `most` is given, it is the fewest scored attempts that any problem with one has.
    """
    scored = [n for n in attempts if n > 0]
    if not scored:
        raise ValueError("no attempt was scored, so there is no pass@k")
    most = min(scored) if most is None else most
    pairs = zip(attempts, correct, strict=True)
    rows = [pass_at(n, c)[:most] for n, c in pairs if n >= most]
    if not rows:
        raise ValueError(f"no problem has {most} scored attempts; the most are {max(scored)}")
    return curve(np.stack(rows), left_out=len(attempts) - len(rows), seed=seed)


def curve(values_PK: np.ndarray, left_out: int = 0, draws: int = DRAWS, seed: int = 0) -> Curve:
    """Mean and 95 % band of per-problem values for k = 1..K.

    Where every problem has the same 0 or 1, resampling sees no spread; Wilson's interval stands there.
    """
    problems, most = values_PK.shape
    mean = values_PK.mean(0)
    low, high = percentiles(replicates(lambda units: values_PK[units].mean(0), problems, draws, seed))
    for end in (0.0, 1.0):
        flat = (values_PK == end).all(0)
        low[flat], high[flat] = wilson(end * problems, problems)
    return Curve(np.arange(1, most + 1), mean, low, high, problems, left_out)
