"""What a preference data set would teach by length alone, checked before anything is trained.

If the longer answer is chosen more often than not, "write more" is a policy that wins, and DPO finds it: its
reward is a sum over tokens. The figure is the accuracy of the rule "the longer one is chosen".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rung.batch import Pair

Z = 1.96
TOLERATED = 0.05  # how far from a coin the rule may stand, beyond doubt, before it is worth a warning


@dataclass(frozen=True)
class LengthBias:
    pairs: int  # of different length
    longer_chosen: float  # share of them in which the longer answer is chosen
    low: float  # 95 % interval of that share (Wilson)
    high: float
    chosen_tokens: float  # means over all pairs
    rejected_tokens: float

    def warning(self) -> str:
        """Empty where length says little about preference."""
        if self.low <= 0.5 + TOLERATED and self.high >= 0.5 - TOLERATED:
            return ""
        way, rule = (
            ("longer", self.longer_chosen)
            if self.longer_chosen > 0.5
            else ("shorter", 1 - self.longer_chosen)
        )
        return (
            f"the {way} answer is chosen in {rule:.1%} of {self.pairs:,} pairs (mean {self.chosen_tokens:.0f} tokens "
            f"chosen, {self.rejected_tokens:.0f} rejected), so {way} answers alone win most pairs. "
            "Balance the lengths, or use rung simpo, which rewards tokens on average."
        )


def length_bias(pairs: Sequence[Pair]) -> LengthBias:
    lengths_P2 = np.array([[int(p.chosen.trained.sum()), int(p.rejected.trained.sum())] for p in pairs])
    gaps_P = lengths_P2[:, 0] - lengths_P2[:, 1]
    unequal = int((gaps_P != 0).sum())
    share = float((gaps_P > 0).sum() / unequal) if unequal else 0.5
    centre = (share + Z * Z / (2 * unequal)) / (1 + Z * Z / unequal) if unequal else 0.5
    half = (
        Z * np.sqrt(share * (1 - share) / unequal + (Z / (2 * unequal)) ** 2) / (1 + Z * Z / unequal)
        if unequal
        else 0.5
    )
    means = lengths_P2.mean(axis=0)
    return LengthBias(
        unequal, share, centre - float(half), centre + float(half), float(means[0]), float(means[1])
    )
