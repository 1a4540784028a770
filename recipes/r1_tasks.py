"""What `recipes/r1.yaml` and its neighbours are played on: sums to reason about, and questions that need no reasoning.

    rung rl --env r1_tasks.py:sums --reward r1_tasks.py:accuracy_and_form
    rung rl --env r1_tasks.py:scenarios?judge=FOLDER

The two rewards of DeepSeek-R1 (2501.12948) that are rules: `accuracy`, whether the number in <answer> is right, and
`form`, how much of <think>...</think><answer>...</answer> was kept. Accuracy weighs more, since form alone is easily had.
Questions are graded by a reward model where one is named; what ran into its limit helps nobody and has 0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from rung.envs.environment import Environment, Task
from rung.envs.generated import Problem, held_out
from rung.envs.load import load_environment
from rung.envs.mixture import MEMBER, mixture
from rung.rewards.calling import judge_all
from rung.rewards.numeric import Numeric
from rung.rewards.score import Attempt, Reward, Score, Verdict
from rung.rewards.think_format import ThinkFormat

SUMS = "reasoning-gym/chain_sum?min_terms=2&max_terms=3&min_digits=1&max_digits=2&format=think"
FORM = 0.25  # what a kept form is worth; a right answer is worth 1

THINGS = (
    "apples bees bread bridges cats clouds coffee cows dogs ducks elephants fire fish flowers forests glass gold "
    "grass hats horses houses ice islands kings knives lakes lemons lions milk mountains music paper rain rivers "
    "roads sand sheep shoes silver snow songs stars stones tea tigers trains trees water whales wind windows wolves"
)
TEMPLATES = (
    "Write one sentence about {}.",
    "What are {} good for? Answer in one sentence.",
    "Name two words that go with {}.",
    "Say in a few words what {} look like.",
    "Give one fact about {}.",
)


@dataclass(frozen=True)
class AccuracyAndForm:
    """1 for the right number plus FORM times the share of the form that was kept."""

    trusted: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        right = Numeric()(replace(attempt, reference=attempt.reference["answer"]))
        form = ThinkFormat()(attempt)
        if not (isinstance(right, Score) and isinstance(form, Score)):
            return right
        return Score(right.value + FORM * form.value, {"accuracy": right.value, "form": form.value})


def accuracy_and_form(attempt: Attempt) -> Verdict:
    return AccuracyAndForm()(attempt)


@dataclass(frozen=True)
class Helpfulness:
    """The reward model's score through a sigmoid, 0 for an answer without an end; without a model only the end counts."""

    judge: Reward | None = None
    trusted: ClassVar[bool] = True
    batched: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        return self.many([attempt])[0]

    def many(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        if self.judge is None:
            return [Score(float(not attempt.truncated)) for attempt in attempts]
        verdicts = judge_all(self.judge, attempts)
        return [self.bounded(*one) for one in zip(attempts, verdicts, strict=True)]

    @staticmethod
    def bounded(attempt: Attempt, verdict: Verdict) -> Verdict:
        if not isinstance(verdict, Score):
            return verdict
        liked = 1 / (1 + math.exp(-max(min(verdict.value, 30.0), -30.0)))
        return Score(0.0 if attempt.truncated else liked, {"helpfulness": liked})


@dataclass(frozen=True)
class ByScenario:
    """Each attempt by the reward of the member its task is of, each reward asked once for all of them."""

    rewards: Mapping[str, Reward]
    trusted: ClassVar[bool] = True
    batched: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        return self.many([attempt])[0]

    def many(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        found: dict[int, Verdict] = {}
        for name, reward in self.rewards.items():
            places = [i for i, attempt in enumerate(attempts) if attempt.extra[MEMBER] == name]
            found |= dict(zip(places, judge_all(reward, [attempts[i] for i in places]), strict=True))
        return [found[i] for i in range(len(attempts))]


# ---- environments ----


def sums(*, seed: int = 0, train_size: int | None = None, test_size: int | None = None) -> Environment:
    """Chain sums; a grade is right or wrong."""
    return load_environment(SUMS, seed=seed, train_size=train_size, test_size=test_size)


def questions(*, judge: str = "", train_size: int | None = None, test_size: int | None = None) -> Environment:
    """260 questions in everyday words, a quarter of them held out. `judge` is the folder of a reward model."""
    asked = [template.format(thing) for template in TEMPLATES for thing in THINGS.split()]
    asked.sort(key=lambda text: hashlib.sha256(text.encode()).digest())
    tests = {text for text in asked if held_out(Problem(text, None, None))}
    train = [task(text) for text in asked if text not in tests][:train_size]
    test = [task(text) for text in asked if text in tests][:test_size]
    return Environment("questions", train, test, Helpfulness(judge_named(judge)))


def scenarios(
    *,
    judge: str = "",
    share: float = 0.6,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
) -> Environment:
    """Sums, a `share` of the tasks, by rules, and questions by a reward model: R1's reinforcement on all scenarios."""
    parts = [
        sums(seed=seed, train_size=train_size, test_size=test_size),
        questions(judge=judge, test_size=test_size),
    ]
    mixed = mixture(parts, [share, 1 - share], seed, train_size)
    rewards: dict[str, Reward] = {parts[0].name: AccuracyAndForm(), parts[1].name: parts[1].reward}
    return replace(mixed, reward=ByScenario(rewards))


def task(text: str) -> Task:
    return Task(f"questions:{text}", ({"role": "user", "content": text},))


def judge_named(folder: str) -> Reward | None:
    if not folder:
        return None
    from rung.pipelines.judging import reward_named

    return reward_named(f"rm:{folder}")
