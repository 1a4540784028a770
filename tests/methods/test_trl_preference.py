"""TRL's preference losses and gradients for the same log-probs (tests/golden/make_trl_preference.py)."""

import json
from functools import partial
from pathlib import Path

import pytest
from preference_case import case, gradient_of

from rung.methods.apo import apo
from rung.methods.dpo import dpo
from rung.methods.hinge import hinge
from rung.methods.ipo import ipo
from rung.methods.kto import kto
from rung.methods.orpo import orpo
from rung.methods.simpo import simpo

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/trl_preference.json").read_text())
METHODS = {
    "dpo": partial(dpo, beta=0.3),
    "cdpo": partial(dpo, beta=0.3, label_smoothing=0.2),
    "robust": partial(dpo, beta=0.3, label_smoothing=0.2, robust=True),
    "hinge": partial(hinge, beta=0.3),
    "ipo": partial(ipo, beta=0.7),
    "apo zero": partial(apo, beta=0.3),
    "apo down": partial(apo, beta=0.3, anchor="down"),
    "simpo": partial(simpo, beta=2.5, gamma=1.4),
    "orpo": partial(orpo, weight=0.4),
}


@pytest.mark.parametrize("name", METHODS)
def test_pairs(name):
    policy, start = GOLDEN["policy"], GOLDEN["reference"]
    scores, batch = case(policy[:3], policy[3:], start[:3], start[3:])
    loss = METHODS[name](scores, batch)
    theirs = GOLDEN["losses"][name]
    assert loss.sum.item() / loss.count == pytest.approx(theirs["loss"], rel=1e-5)
    order = [row for pair in zip(theirs["gradient"][:3], theirs["gradient"][3:], strict=True) for row in pair]
    flat = [g for row in order for g in row]
    found = [g / loss.count for g in gradient_of(METHODS[name], scores, batch)]
    assert found == pytest.approx(flat, rel=1e-5, abs=1e-8)


def test_kto():
    """Each of the six answers beside the one that stands opposite in the other order."""
    policy, start = GOLDEN["policy"], GOLDEN["reference"]
    scores, batch = case(policy, policy[::-1], start, start[::-1], labels=GOLDEN["labels"])
    method = partial(kto, beta=0.3, desirable_weight=1.2, undesirable_weight=0.8)
    loss = method(scores, batch)
    theirs = GOLDEN["losses"]["kto"]
    assert loss.sum.item() / loss.count == pytest.approx(theirs["loss"], rel=1e-5)
    found = iter(gradient_of(method, scores, batch))
    for row, opposite in zip(theirs["gradient"], policy[::-1], strict=True):
        assert [next(found) / loss.count for _ in row] == pytest.approx(row, rel=1e-5, abs=1e-8)
        assert [next(found) for _ in opposite] == [0] * len(opposite)
