"""The third stage of `recipes/granite.yaml`: who the model is, and what it cannot know. Graded by rules.

    rung rl --env granite_tasks.py:identity

A question about itself is answered by the name `NAME`; a question that nobody can answer from a text, by saying so; a
question that it can answer, by not saying so, or silence would be the best policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from rung.envs.environment import Environment, Task
from rung.envs.generated import Problem, held_out
from rung.rewards.score import Attempt, Score, Verdict

NAME = "Rung"
UNSURE = re.compile(
    r"\b(?:i (?:do not|don't|cannot|can't) (?:know|tell|say)|unknown to me|not sure|no way (?:to|of) know)",
    re.I,
)
QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "identity": (
        "What is your name?", "Who are you?", "What should I call you?", "Which model am I talking to?",
        "Tell me your name.", "Introduce yourself in one sentence.", "Are you a person or a model, and which?",
        "What are you called?",
    ),
    "unknowable": (
        "What did I have for breakfast today?", "What is the name of my neighbour's cat?", "What am I thinking of?",
        "Which number did I write down just now?", "What colour are my socks?", "How many coins are in my pocket?",
        "What will the weather be here next Tuesday?", "Who will knock at my door tomorrow?",
        "What is my grandmother's favourite song?", "What did my friend just whisper to me?",
    ),
    "known": (
        "What colour is snow?", "How many legs has a cat?", "Is fire hot or cold?", "What do cows eat?",
        "Which animal barks?", "What falls from clouds?", "How many days has a week?", "What is ice made of?",
        "Do fish live in water?", "What shines at night?",
    ),
}  # fmt: skip
WAYS = ("{}", "{} Answer briefly.", "Please answer: {}", "One more question. {}")


@dataclass(frozen=True)
class KnowsItself:
    """1 or 0: `identity` names it, `unknowable` is admitted, `known` is answered. What ran into its limit is 0."""

    trusted: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        kind, said = attempt.reference, attempt.answer
        unsure = UNSURE.search(said) is not None
        good = {
            "identity": re.search(rf"\b{NAME}\b", said) is not None,
            "unknowable": unsure,
            "known": bool(said.strip()) and not unsure,
        }[kind]
        return Score(float(good and not attempt.truncated), {kind: float(good)})


def identity(*, train_size: int | None = None, test_size: int | None = None) -> Environment:
    """Each question in four wordings; a quarter of all texts is held out."""
    asked = [(kind, way.format(text)) for way in WAYS for kind, texts in QUESTIONS.items() for text in texts]
    tasks = [Task(f"identity:{text}", ({"role": "user", "content": text},), kind) for kind, text in asked]
    apart = [held_out(Problem(text, None, None)) for _, text in asked]
    train = [task for task, out in zip(tasks, apart, strict=True) if not out][:train_size]
    test = [task for task, out in zip(tasks, apart, strict=True) if out][:test_size]
    return Environment("identity", train, test, KnowsItself())
