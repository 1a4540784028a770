"""From settings to a method whose weights are held near the start (`methods.anchor`).

Start and Fisher information are read from the model the run began with, not from its checkpoint, and made anew when
a run is continued: both are functions of that model, the rows and the seed.
"""

from __future__ import annotations

import hashlib

import torch

from rung.batch import Example
from rung.data.examples import Demonstrations
from rung.data.mixture import epoch_order
from rung.methods.anchor import Anchor, Method, anchored
from rung.models.fisher import fisher_diagonal
from rung.models.load import load_model
from rung.pipelines.setup import Subject
from rung.pipelines.stage import Stage, same_start
from rung.settings import Sft
from rung.train import State


def held(
    stage: Stage, settings: Sft, subject: Subject, state: State, method: Method, old: Demonstrations | None
) -> Method:
    """The method with the pull that `settings.anchor` asks for; `old` are the rows of `anchor.data`."""
    asked = settings.anchor
    same_start(stage, subject, "what it is held to")
    fisher = None
    if old is not None:
        model = load_model(settings.model, subject.dtype, subject.device)
        fisher = fisher_diagonal(
            model, chosen(old, asked.documents, settings.seed), seed=settings.seed, device=subject.device
        )
        del model
    start = load_model(settings.model, torch.float32, subject.device)
    weights = {name: weight.detach() for name, weight in start.named_parameters()}
    anchor = Anchor(state.masters.compute, state.masters.weights, weights, asked.l2, asked.ewc, fisher)
    return anchored(method, anchor)


def chosen(old: Demonstrations, count: int, seed: int) -> list[Example]:
    """Documents with something to predict, in the order of an epoch over the rows."""
    order = epoch_order(old.sizes, old.weights, seed, 0)
    usable = [old.examples[i] for i in order if old.examples[i].trained[1:].any()]
    return usable[:count]


def both(digest: str, old: Demonstrations | None) -> str:
    """One digest of the data and of the rows that say what must stay."""
    return hashlib.sha256(f"{digest} {old.digest}".encode()).hexdigest() if old else digest
