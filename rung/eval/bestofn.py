"""Best-of-n: sample n answers, keep the one a proxy likes best. What that is worth for every n up to N.

From N samples of a task every subset of n is a fair draw, so the mean over all subsets is unbiased for n fresh
samples (`passk.best_of`). The policy moves away from its own by KL = log n - (n - 1) / n nats, if no two proxies
are equal (2210.10760).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rung.errors import UserError
from rung.eval.passk import Curve, best_of, curve


def best_curve(
    proxy: Mapping[str, Sequence[float | None]], value: Mapping[str, Sequence[float | None]], seed: int = 0
) -> Curve:
    """Mean over tasks of the value of the best by proxy of k answers, for k = 1..N.

    A sample without a proxy or without a value (None) is left out; so is, and is counted, a task that then has
    fewer samples than the largest k, which is the fewest that any task with one has.
    """
    rows = []
    for task, proxies in proxy.items():
        both = zip(proxies, value[task], strict=True)
        known = [(p, v) for p, v in both if p is not None and v is not None]
        if known:
            rows.append(best_of(*zip(*known, strict=True)))
    if not rows:
        raise UserError("No answer has both a score of the reward model and a verdict, so there is no curve.")
    most = min(len(row) for row in rows)
    return curve(np.stack([row[:most] for row in rows]), left_out=len(proxy) - len(rows), seed=seed)


def best_index(proxies: Sequence[float | None]) -> int | None:
    """The first of the highest."""
    known = [(-score, index) for index, score in enumerate(proxies) if score is not None]
    return min(known)[1] if known else None
