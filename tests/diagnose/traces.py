"""Runs made up for the detectors: honest ones, and ones with a known failure, without a model or a disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from rung.batch import Rollout
from rung.diagnose.run import Trace
from rung.rewards.score import Score
from rung.rollouts.columns import Graded, row

WORDS = "first then now we take both add carry over one of it that this means so hence therefore is"
FILLERS = WORDS.split()
OPENERS = ("let us see", "we look at", "to begin", "given", "take")


@dataclass
class MemoryStore:
    """What the detectors ask of a RolloutStore, from lists."""

    kept: dict[int, list[Graded]] = field(default_factory=dict)
    prompts: dict[int, str] = field(default_factory=dict)  # by group

    def rounds(self) -> list[int]:
        return sorted(self.kept)

    def read(self, round: int) -> list[Graded]:
        return self.kept[round]

    def scan(self, columns=None, rounds=None) -> Iterator[dict]:
        for round in self.rounds() if rounds is None else rounds:
            for index, record in enumerate(self.kept[round]):
                yield row(round, index, record, None) | {"prompt": self.prompts.get(record.rollout.group)}


def graded(
    group: int, text: str, reward: float, tokens: int = 40, entropy: float = 1.0, round: int = 0
) -> Graded:
    ones = np.ones(tokens, np.float32)
    rollout = Rollout(
        task=f"task:{group}",
        group=group,
        prompt_ids=np.array([1], np.int32),
        token_ids=np.arange(tokens, dtype=np.int32),
        by_model=np.ones(tokens, bool),
        sampler_logprob=-ones,
        policy_logprob=-ones,
        entropy=entropy * ones,
        version=np.full(tokens, round, np.int32),
        finish="stop",
        text=text,
    )
    return Graded(rollout, Score(reward), 0 * ones)


Spoil = Callable[[np.random.Generator, float, str, bool], str]  # progress, text, right -> text


def spared(rng, progress, text, right):
    return text


def rl_trace(
    seed: int,
    spoil: Spoil = spared,
    *,
    rounds: int = 20,
    groups: int = 8,
    attempts: int = 6,
    accuracy: tuple[float, float] = (0.3, 0.8),
    heldout: tuple[float, float] | None = (0.3, 0.8),
    tasks: int = 100,
) -> Trace:
    """Sums worked out in words. Right answers get likelier and a little longer, one opener is liked better."""
    rng = np.random.default_rng(seed)
    store, rows, group = MemoryStore(), [], 0
    for number in range(rounds):
        progress = number / (rounds - 1)
        likes = np.array([1 + progress, 1, 1, 1, 1]) / (5 + progress)
        records = []
        for _ in range(groups):
            group += 1
            a, b = rng.integers(10, 99, size=2)
            store.prompts[group] = f"What is {a} + {b}? Write **the answer is** and the number."
            ease = rng.beta(2, 2) - 0.5
            p = np.clip(accuracy[0] + (accuracy[1] - accuracy[0]) * progress + 0.6 * ease, 0.02, 0.98)
            for _ in range(attempts):
                right = bool(rng.random() < p)
                words = rng.choice(FILLERS, size=rng.integers(8, 14) + int(6 * progress * right))
                said = a + b if right else a + b + rng.integers(1, 20)
                text = f"{rng.choice(OPENERS, p=likes)} {' '.join(words)} **the answer is** {said}"
                records.append(graded(group, spoil(rng, progress, text, right), float(right), round=number))
        store.kept[number] = records
        entry = {"step": number + 1, "round": number, "loss": float(rng.normal(0, 0.01)), "sampler_kl3": 1e-4}
        entry["grad_norm"] = float(rng.lognormal(0, 0.5))
        if heldout and number % 4 == 3:
            true = heldout[0] + (heldout[1] - heldout[0]) * progress
            entry["heldout_score"] = entry["heldout_solved"] = rng.binomial(tasks, true) / tasks
        rows.append(entry)
    return Trace(rows, {"command": "rl", "settings": {"test_tasks": tasks, "staleness": 0}}, store)


def sft_trace(
    seed: int, *, steps: int = 200, evaluations: int = 20, fall: float = 1.0, noise: float = 0.15
) -> Trace:
    """A loss that falls and levels out, heavy-tailed norms, held-out loss that follows and ends level."""
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(1, steps + 1):
        true = 2.0 - fall * (1 - np.exp(-4 * step / steps))
        entry = {"step": step, "loss": float(true * rng.lognormal(0, noise))}
        entry["grad_norm"] = float(rng.lognormal(0, 0.7) * (1 + 5 * np.exp(-step / 5)))
        if evaluations and step % (steps // evaluations) == 0:
            entry["eval_loss"] = float(true + 0.1 + rng.normal(0, 0.01))
        rows.append(entry)
    return Trace(rows, {"command": "sft"})


def preference_trace(seed: int, *, steps: int = 80, chosen: float = 0.1, rejected: float = -0.4) -> Trace:
    """Where the two answers end, in nats per token from the start."""
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(1, steps + 1):
        way = 1 - np.exp(-5 * step / steps)
        rows.append(
            {
                "step": step,
                "loss": float(0.69 - 0.3 * way + rng.normal(0, 0.03)),
                "grad_norm": float(rng.lognormal(0, 0.5)),
                "chosen_change": float(chosen * way + rng.normal(0, 0.05)),
                "rejected_change": float(rejected * way + rng.normal(0, 0.1)),
                "both_fall": float(rng.uniform(0.1, 0.3)),
            }
        )
    return Trace(rows, {"command": "dpo"})
