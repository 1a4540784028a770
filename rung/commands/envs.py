"""`rung envs list|show`: which environments there are, and what one asks, answers and grades."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

from rung.errors import UserError

if TYPE_CHECKING:
    from rung.envs.environment import Environment, Task


@dataclass(frozen=True)
class EnvsList:
    """The environments that come with rung, and the data sets of reasoning-gym."""


@dataclass(frozen=True)
class EnvsShow:
    """A task as the model sees it, its reference, and how right and wrong answers are graded."""

    spec: tyro.conf.Positional[str]
    "as in arithmetic?digits=3, reasoning-gym/chain_sum, gsm8k:PATH, FILE.py:FUNCTION"
    index: int | None = None
    "which training task to show; the worked example unless said"
    seed: int = 0
    "chooses what is drawn for training"


OWN = {
    "arithmetic": "sums, differences and products of two numbers",
    "countdown": "reach a target with given numbers, each once; target=24 is the game of 24",
    "guess": "find a number from higher and lower; several turns",
    "lookup": "questions about made-up people; with tools=search the answers can be found",
    "needle": "a fact in a long text of length=500 words, with distractors=4 like it or none",
    "counting": "a small sum among distractors=3; with more thinking models may get worse",
    "regression": "a grade by the one column that it follows, beside columns that look as if",
    "deduction": "who owns what in houses=3 or 4, from clues that allow one answer",
    "puzzles": "twenty programs to write, in language=python or another; to test on",
    "humaneval": "164 Python functions with their tests; to test on",
    "gsm8k:PATH": "grade-school word problems; without PATH from the hub",
    "math:PATH": "problem and answer, compared as mathematics",
    "rows:PATH": "prompt and answer; reward=exact, numeric, math, choice, countdown or FILE.py:FUNCTION",
    "FILE.py:FUNCTION": "your own, also an environment of the verifiers package",
    "A=0.7,B=0.3": "several with shares",
}


def list_environments(settings: EnvsList) -> int:
    import textwrap

    from rung.envs.reasoning_gym import datasets_by_kind

    width = max(map(len, OWN))
    for name, meaning in OWN.items():
        print(f"{name:{width}}  {meaning}")
    print("\nreasoning-gym/NAME")
    for kind, names in datasets_by_kind().items():
        print(textwrap.fill(", ".join(names), 100, initial_indent=f"  {kind}: ", subsequent_indent="    "))
    return 0


def show(settings: EnvsShow) -> int:
    from rung.envs.load import load_environment

    environment = load_environment(settings.spec, seed=settings.seed)
    example = environment.example
    if settings.index is None and example is not None:
        task = example.task
    else:
        index = settings.index or 0
        if not -len(environment.train) <= index < len(environment.train):
            raise UserError(
                f"{environment.name} has {len(environment.train)} training tasks; there is no task {index}"
            )
        task = environment.train[index]
    heading(environment)
    show_task(task)
    if environment.tools:
        field("tools", ", ".join(tool["function"]["name"] for tool in environment.tools))
    if example is not None:
        if task is not example.task:
            print(f"\n(the answers below are to {example.task.key})")
        show_play(environment, "right", example.right)
        show_play(environment, "wrong", example.wrong)
    else:
        print("\nno answer is known to be right beforehand, so none is graded here")
    return 0


def heading(environment: Environment) -> None:
    turns = "one turn" if environment.max_turns == 1 else f"up to {environment.max_turns} turns of the model"
    print(f"{environment.name}   {len(environment.train):,} training tasks, {turns}")


def show_task(task: Task) -> None:
    field("task", task.key)
    for message in task.messages:
        field(message["role"], message["content"])
    field("reference", short(task.reference))


def show_play(environment: Environment, label: str, turns: tuple[str, ...]) -> None:
    from rung.envs.play import play

    assert environment.example is not None
    attempt, verdict = play(environment, environment.example.task, turns)
    print()
    for message in attempt.messages:
        field(label if message["role"] == "assistant" else message["role"], message["content"])
    field("verdict", str(verdict))


def field(name: str, text: str) -> None:
    first, *rest = text.splitlines() or [""]
    print(f"  {name:10} {first}")
    for line in rest:
        print(f"  {'':10} {line}")


def short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
