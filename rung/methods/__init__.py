"""Losses. The method NAME is the function NAME in methods/NAME.py; this is the table of them.

`NAMES` costs nothing to read, so that a command line can offer them; `find` imports torch.

    nll                    supervised            -log p
    reinforce              the plain gradient    -A log p, summed over the answer
    rloo, remax            = reinforce           with another baseline
    dapo                   clipped surrogate     more room upwards, mean over tokens
    grpo                   = dapo                equal clips, mean over each answer
    dr_grpo                = grpo                divided by a constant length
    gspo                   = grpo                ratio of the whole answer
    reinforce_plus_plus    = dapo                equal clips; whitened credit
    cispo                  clipped weights       no token loses its gradient
    ppo                    clipped surrogate     and the regression of a critic
    reason_maxxer          offline, sparse       -A log p at decisions, an anchor elsewhere
    dpo, ipo               pairs                 log-ratios to the start, by logistic or squared loss
    dpop, rpo, apo         = dpo                 the chosen answer held up
    hinge                  = dpo                 a margin, then nothing
    simpo, orpo, slic      pairs                 likelihoods, no reference
    kto                    thumbs                each answer by itself
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rung.batch import Loss

POLICY_GRADIENTS = (
    "reinforce",
    "rloo",
    "remax",
    "grpo",
    "dr_grpo",
    "dapo",
    "gspo",
    "cispo",
    "reinforce_plus_plus",
)
PREFERENCES = ("dpo", "ipo", "dpop", "rpo", "apo", "hinge", "simpo", "orpo", "slic", "kto")
NAMES = ("nll", *POLICY_GRADIENTS, "reason_maxxer", "ppo", *PREFERENCES)


def find(name: str) -> Callable[..., Loss]:
    """The loss of this name."""
    from rung.methods.apo import apo
    from rung.methods.cispo import cispo
    from rung.methods.dapo import dapo
    from rung.methods.dpo import dpo
    from rung.methods.dpop import dpop
    from rung.methods.dr_grpo import dr_grpo
    from rung.methods.grpo import grpo
    from rung.methods.gspo import gspo
    from rung.methods.hinge import hinge
    from rung.methods.ipo import ipo
    from rung.methods.kto import kto
    from rung.methods.nll import nll
    from rung.methods.orpo import orpo
    from rung.methods.ppo import ppo
    from rung.methods.reason_maxxer import reason_maxxer
    from rung.methods.reinforce import reinforce
    from rung.methods.reinforce_plus_plus import reinforce_plus_plus
    from rung.methods.remax import remax
    from rung.methods.rloo import rloo
    from rung.methods.rpo import rpo
    from rung.methods.simpo import simpo
    from rung.methods.slic import slic

    losses: dict[str, Callable[..., Loss]] = {
        "nll": nll,
        "reinforce": reinforce,
        "rloo": rloo,
        "remax": remax,
        "grpo": grpo,
        "dr_grpo": dr_grpo,
        "dapo": dapo,
        "gspo": gspo,
        "cispo": cispo,
        "reinforce_plus_plus": reinforce_plus_plus,
        "reason_maxxer": reason_maxxer,
        "ppo": ppo,
        "dpo": dpo,
        "ipo": ipo,
        "dpop": dpop,
        "rpo": rpo,
        "apo": apo,
        "hinge": hinge,
        "simpo": simpo,
        "orpo": orpo,
        "slic": slic,
        "kto": kto,
    }
    return losses[name]
