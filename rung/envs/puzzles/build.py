"""The environment `puzzles?language=python`: write a program that prints the answer.

    What is the sum of all tidy numbers below one hundred thousand?   ->   ```python ... ```   ->   217755335

The program runs in the sandbox without input, and all it prints is compared with the answer. There is nothing to
train on: twenty puzzles are a measure, and one that was trained on measures nothing.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rung.envs.environment import Environment, Task, Worked
from rung.errors import UserError
from rung.rewards.code import Code
from rung.sandbox.languages import LANGUAGES
from rung.sandbox.languages import language as language_named

FOLDER = Path(__file__).parent
REQUEST = """\
Write a complete {title} program that computes the answer and prints it, and nothing else, to standard output. It
gets no input and may use only the standard library. Put the whole program into one fenced block:

```{fence}
...
```"""


@dataclass(frozen=True)
class Puzzle:
    name: str  # "01_distinct_sevens"
    difficulty: int  # 1 to 5
    statement: str
    answer: str
    solutions: Mapping[str, str]  # language -> a program that prints the answer


@functools.cache
def all_puzzles() -> tuple[Puzzle, ...]:
    """In order of their numbers, which is the order of difficulty."""
    return tuple(read(file) for file in sorted(FOLDER.glob("*.toml")))


def read(file: Path) -> Puzzle:
    """The puzzle, and with its own solutions those in the folder beside it, one file a language."""
    found = tomllib.loads(file.read_text(encoding="utf-8"))
    solutions = {name: code.lstrip("\n") for name, code in found["solutions"].items()}
    for name, language in LANGUAGES.items():
        beside = file.with_suffix("") / language.file
        if beside.is_file():
            solutions[name] = beside.read_text(encoding="utf-8")
    return Puzzle(file.stem, found["difficulty"], found["statement"].strip(), found["answer"], solutions)


def puzzles(
    name: str,
    *,
    language: str = "python",
    difficulty: int = 0,
    seed: int,
    train_size: int | None,
    test_size: int | None,
) -> Environment:
    """`language` is any that `rung languages` lists; `difficulty` 0 means all of them."""
    del seed, train_size  # the puzzles are what they are, and none is for training
    known = language_named(language).name  # refuses a language that the sandbox does not know
    chosen = [each for each in all_puzzles() if difficulty in (0, each.difficulty)]
    if not chosen:
        raise UserError(
            f"{name}: difficulty={difficulty} is not between 1 and 5; leave it out for all puzzles"
        )
    tasks = [task_of(name, puzzle, known) for puzzle in chosen]
    return Environment(name, (), tasks[:test_size], Code(known), example=worked(tasks[0], chosen[0], known))


def task_of(name: str, puzzle: Puzzle, known: str) -> Task:
    request = REQUEST.format(title=LANGUAGES[known].title, fence=LANGUAGES[known].fences[0])
    reference = {"cases": [{"stdin": "", "stdout": puzzle.answer}]}
    message = {"role": "user", "content": f"{puzzle.statement}\n\n{request}"}
    extra = {"difficulty": puzzle.difficulty, "language": known}
    return Task(f"{name}:{puzzle.name}", (message,), reference, extra)


def worked(task: Task, puzzle: Puzzle, known: str) -> Worked | None:
    """None in languages that the puzzle's file has no solution in."""
    if known not in puzzle.solutions:
        return None
    right = f"```{LANGUAGES[known].fences[0]}\n{puzzle.solutions[known]}```"
    return Worked(task, (right,), (f"The answer is {puzzle.answer}.",))  # no program, however right
