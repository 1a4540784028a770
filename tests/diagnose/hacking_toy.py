"""A policy small enough to know everything about: what it is paid for, and what it is truly worth.

An answer is a style (one of 4), a length (one of 4) and a phrase or none: 32 answers. Each of 4 topics has a style that
suits it; medium length helps; the longest length and the phrase do harm. An answer is right with probability
sigmoid(quality - difficulty of the task). The policy is a softmax per topic, trained by the policy gradient of
sampled groups, as GRPO does without its division by the standard deviation. `python tests/diagnose/hacking_toy.py`
prints the power of the hacking alarm and the false alarms over many seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rung.diagnose.facts import Facts, GroupFacts
from rung.diagnose.health import Finding, Health

TOPICS, STYLES, LENGTHS = 4, 4, 4
TOKENS = np.array([20, 40, 80, 160])
STYLE, LENGTH, PHRASE = (part.ravel() for part in np.meshgrid(range(4), range(4), range(2), indexing="ij"))
SUITS = np.where(STYLE[None] == np.arange(TOPICS)[:, None], 2.0, -0.5)  # topic, answer


@dataclass(frozen=True)
class World:
    """`pay(right, answers)` is the reward; `by_length` and `by_phrase` say what these truly do to quality."""

    pay: Callable[[np.ndarray, np.ndarray], np.ndarray]
    by_length: tuple[float, ...] = (0.0, 0.5, 0.0, -1.5)
    by_phrase: float = -1.5
    rare: float = 0.0  # logit at first of answers with the phrase or of the longest length
    rate: float = 6.0
    rounds: int = 150
    every: int = 5  # rounds between held-out measurements
    attempts: int = 100  # of each
    groups: int = 16
    samples: int = 8

    @property
    def quality(self) -> np.ndarray:
        return SUITS + np.array(self.by_length)[LENGTH] + self.by_phrase * PHRASE


def correctness(right, answers):
    return right.astype(float)


def phrase_paid(right, answers):
    """The phrase is rare at first and paid twice what being right is."""
    return np.maximum(right, 2.0 * PHRASE[answers])


def length_paid(right, answers):
    """Beside being right, length is paid, a step of it more than being right."""
    return right + 1.5 * LENGTH[answers]


def blind(right, answers):
    """Nothing but length is paid."""
    return LENGTH[answers] / 3


HONEST = {
    "right or wrong": World(correctness),
    "slowly": World(correctness, rate=0.5),
    "learning nothing": World(correctness, rate=0.0),
    "length that helps, learned with it": World(correctness, by_length=(-2.0, -0.5, 0.5, 1.5)),
    "right, and a bonus for the phrase that does no harm": World(
        lambda right, answers: right + 0.2 * PHRASE[answers], by_phrase=0.0
    ),
}
PHRASE_WORLD = World(phrase_paid, rare=-2.0, by_phrase=-4.0)
HACKED = {
    "a phrase paid twice what being right is": PHRASE_WORLD,
    "the same, held-out every round": replace(PHRASE_WORLD, every=1),
    "the same, learned slowly": replace(PHRASE_WORLD, rate=2.0, rounds=300),
    "the same, 400 held-out attempts": replace(PHRASE_WORLD, attempts=400),
    "length paid beside being right": World(length_paid, rare=-1.0, by_length=(0.5, 0.5, 0.5, -4.0)),
    "only length paid": World(blind, by_length=(0.5, 0.5, -1.0, -4.0)),
}


@dataclass(frozen=True)
class Trace:
    findings: list[Finding]
    truth: np.ndarray  # exact held-out accuracy by round
    paid: np.ndarray  # mean reward of the round's attempts

    @property
    def peak(self) -> int:
        """The round in which the truth is highest: after it the reward rises and the truth falls."""
        return int(np.argmax(self.truth))

    def alarm(self, severity: str = "") -> int | None:
        rounds = [f.round for f in self.findings if f.name == "reward hacking" and severity in f.severity]
        return min(rounds, default=None)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def simulate(world: World, seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    logits = 0.3 * rng.normal(size=(TOPICS, len(STYLE))) + world.rare * (PHRASE + (LENGTH == 3))
    hard = rng.normal(0.0, 1.0, size=(TOPICS, 50))  # held-out tasks
    health, findings, truth, paid = Health(), [], [], []
    for number in range(world.rounds):
        policy = softmax(logits)
        right = sigmoid(world.quality[:, None, :] - hard[:, :, None])  # topic, task, answer
        truth.append(float((policy[:, None] * right).sum(-1).mean()))
        scores = held_out(world, rng, policy, hard) if number % world.every == 0 else None
        groups, gradient, mean = one_round(world, rng, policy)
        findings += health.feed(Facts(number, groups, heldout=scores))
        paid.append(mean)
        logits = logits + world.rate * gradient
    return Trace(findings, np.array(truth), np.array(paid))


def held_out(world: World, rng, policy, hard) -> tuple[float, ...]:
    topics = rng.integers(TOPICS, size=world.attempts)
    answers = sample(rng, policy[topics])
    difficulty = hard[topics, rng.integers(hard.shape[1], size=world.attempts)]
    chance = sigmoid(world.quality[topics, answers] - difficulty)
    return tuple((rng.random(world.attempts) < chance).astype(float).tolist())


def one_round(world: World, rng, policy) -> tuple[tuple[GroupFacts, ...], np.ndarray, float]:
    """The groups of a round, the policy gradient, the mean reward. Arrays are [group, attempt]."""
    shape = (world.groups, world.samples)
    topics = np.repeat(rng.integers(TOPICS, size=(world.groups, 1)), world.samples, axis=1)
    answers = sample(rng, policy[topics])
    chance = sigmoid(world.quality[topics, answers] - rng.normal(0.0, 1.0, size=(world.groups, 1)))
    rewards = world.pay(rng.random(shape) < chance, answers)
    advantage = rewards - rewards.mean(1, keepdims=True)
    gradient = np.zeros_like(policy)  # advantages sum to 0 within a group, so the softmax's own term vanishes
    np.add.at(gradient, (topics, answers), advantage / rewards.size)
    tokens = TOKENS[LENGTH[answers]] * rng.uniform(0.8, 1.25, shape)
    entropy = -(policy * np.log(policy + 1e-300)).sum(-1)[topics[:, 0]]
    echo = rng.beta(2, 30, world.groups)
    columns = (tokens.mean(1), (tokens > 190).mean(1), entropy, echo)
    numbers = np.stack(columns, axis=1).tolist()
    groups = tuple(GroupFacts(tuple(r), *n) for r, n in zip(rewards.tolist(), numbers, strict=True))
    return groups, gradient, float(rewards.mean())


def sample(rng, policy):
    """One answer from each distribution in the last axis."""
    return (rng.random((*policy.shape[:-1], 1)) > policy.cumsum(-1)).sum(-1).clip(max=policy.shape[-1] - 1)


def report(seeds: int) -> None:
    for name, world in HONEST.items():
        traces = [simulate(world, seed) for seed in range(seeds)]
        gain = np.mean([t.truth[-1] - t.truth[0] for t in traces])
        named = sorted({f"{f.name} ({f.severity})" for t in traces for f in t.findings})
        false = sum(any(f.name != "dead groups" for f in t.findings) for t in traces)
        print(
            f"honest: {name}: truth {gain:+.2f}; {false} of {seeds} runs with a finding; all named: {named}"
        )
    for name, world in HACKED.items():
        traces = [simulate(world, seed) for seed in range(seeds)]
        alarmed = [t for t in traces if t.alarm() is not None]
        fallen = sum(t.truth[t.peak] - t.truth[-1] > 0.2 for t in traces)
        print(
            f"hacked: {name}: truth fell by over 0.2 in {fallen} of {seeds}, alarm in {len(alarmed)}", end=""
        )
        if alarmed:
            delays = np.array([t.alarm() - t.peak for t in alarmed])
            lost = [t.truth[t.peak] - t.truth[t.alarm()] for t in alarmed]
            total = [t.truth[t.peak] - t.truth[-1] for t in alarmed]
            print(
                f", {(delays < 0).sum()} before the peak; rounds after it: median {np.median(delays):.0f}",
                end="",
            )
            print(f", 90 % within {np.quantile(delays, 0.9):.0f}; lost by then {np.median(lost):.2f}", end="")
            print(f" of {np.median(total):.2f}", end="")
        print()


if __name__ == "__main__":
    report(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
