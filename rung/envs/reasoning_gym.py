"""Any data set of the reasoning-gym package by its name, graded by its own grader.

Item i of such a set is made from (its seed + i), so the seeds of the streams here are far apart. Its graders
give a number in [0, 1]; some give a little for trying (0.01), some a share for an answer with the right one
inside it. A grader that raises on what the model wrote, and not on the right answer, was given something it
cannot read: that is a 0 and the part `unreadable` says so. One that raises on the right answer too has failed.
Where nonsense gets full marks too, the answer must be the reference word for word.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_type_hints

from rung.envs.answers import asker, worked
from rung.envs.environment import Environment
from rung.envs.generated import Problem, example_problem, generated
from rung.envs.options import closest, convert, reject_unknown
from rung.errors import UserError
from rung.rewards.extract import final_answer
from rung.rewards.score import Attempt, Failure, Score, Verdict

SIZE = 20_000  # items of one seed, the most that every data set of the package accepts
# Data sets that walk through sets of strings: their questions change with Python's hash seed, so that another
# process would see other tasks under the same keys. Found by making 40 items of every set under two hash seeds.
HASH_DEPENDENT = ("isomorphic_strings", "polynomial_multiplication", "ransom_note")
UNREPEATABLE = (
    "codeio",
)  # runs code that draws from the global generators, and its questions hold what it drew
# Where a data set without one answer keeps an answer that is right.
SOLUTIONS = ("example_correct_answer", "example_answer", "possible_answer")
NONSENSE = "no answer"


def reasoning_gym(
    name: str,
    dataset: str,
    options: Mapping[str, str],
    *,
    format: str = "",
    partial: bool = True,
    seed: int,
    train_size: int | None,
    test_size: int | None,
) -> Environment:
    """`format` is plain, and tags where answers have several lines, unless said. Without `partial` a score below 1 is 0."""
    given = tuple(sorted(options.items()))
    check(name, dataset, given)

    def draw(stream: str, index: int) -> Problem:
        return problem(maker(dataset, given)(f"{stream}/{index // SIZE}")[index % SIZE])

    example = example_problem(draw, lambda found: found.solution is not None)
    format = format or ("tags" if "\n" in (example.solution or "\n") else "plain")
    ask, reward = asker(format, name), OwnGrade(dataset, given, partial)
    environment = Environment(name, (), (), reward, example=worked(name, example, format, NONSENSE))
    return generated(environment, draw, ask, seed, train_size, test_size)


def check(name: str, dataset: str, options: tuple[tuple[str, str], ...]) -> None:
    """Everything about a data set and its options that can be wrong."""
    if dataset in UNREPEATABLE:
        raise UserError(
            f"{name}: an item of {dataset} is not the same when it is made again, so a key would not name a task; "
            "write its items to a file once and use rows:FILE"
        )
    if dataset in HASH_DEPENDENT and sys.flags.hash_randomization:
        raise UserError(
            f"{name}: what reasoning-gym makes for {dataset} depends on Python's hash seed, so a resumed run would "
            "see other tasks; start with PYTHONHASHSEED=0 in the environment"
        )
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(f"{name}: needs the package reasoning-gym; pip install 'rung[tasks]'") from error
    if dataset not in DATASETS or dataset == "composite":
        raise UserError(f"{name}: reasoning-gym has no data set {dataset!r}; {closest(dataset, DATASETS)}")
    reject_unknown(name, dict(options), kinds(dataset))
    for key, text in options:
        convert(name, key, text, kinds(dataset)[key])
    try:  # the package checks its own settings, with assert
        maker(dataset, options)("example/0")
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"{name}: reasoning-gym refuses these options: {error}") from error


def kinds(dataset: str) -> dict[str, Any]:
    """The options of a data set with their types; seed and size are ours."""
    from reasoning_gym.factory import DATASETS

    return {
        key: kind for key, kind in get_type_hints(DATASETS[dataset][1]).items() if key not in ("seed", "size")
    }


@lru_cache(maxsize=64)
def maker(dataset: str, options: tuple[tuple[str, str], ...]) -> Callable[[str], Any]:
    """A function from a stream's name to the data set seeded with it."""
    from reasoning_gym.factory import create_dataset

    given = {key: convert(dataset, key, text, kinds(dataset)[key]) for key, text in options}

    @lru_cache(maxsize=8)
    def make(stream: str) -> Any:
        seed = int.from_bytes(hashlib.sha256(f"{dataset}/{stream}".encode()).digest()[:4]) % 2**31
        return create_dataset(dataset, seed=seed, size=SIZE, **given)

    return make


def datasets_by_kind() -> dict[str, list[str]]:
    """The names of all data sets by the package's own kinds; none where it is not installed."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError:
        return {"not installed": ["pip install 'rung[tasks]'"]}
    found: dict[str, list[str]] = {}
    for name, (dataset, _) in sorted(DATASETS.items()):
        if name != "composite" and name not in UNREPEATABLE:
            found.setdefault(dataset.__module__.split(".")[1], []).append(name)
    return dict(sorted(found.items()))


def problem(entry: dict[str, Any]) -> Problem:
    solution = entry["answer"]
    if solution is None:
        solution = next((entry["metadata"][key] for key in SOLUTIONS if key in entry["metadata"]), None)
    if isinstance(solution, dict | list):
        solution = json.dumps(solution)
    return Problem(entry["question"], entry, solution)


@dataclass(frozen=True)
class OwnGrade:
    """The data set's own grader. Not trusted: several run sympy's parser on what the model wrote.

    Many give a part for what is nearly right, and most for a long answer that has the right one in it: -53 for -5 is
    worth 2/3. Without `partial` only a full score counts.
    """

    dataset: str
    options: tuple[tuple[str, str], ...]
    partial: bool = True

    def __call__(self, attempt: Attempt) -> Verdict:
        dataset, entry = maker(self.dataset, self.options)("grade"), attempt.reference
        answer = final_answer(attempt.answer)
        try:  # graders of another package
            value = float(dataset.score_answer(answer, entry))
        except Exception as error:
            if not grades_its_own(dataset, entry):
                return Failure("exception", f"{type(error).__name__}: {error}")
            return Score(0.0, {"unreadable": 1.0})
        if not 0 <= value <= 1:
            return Failure("invalid", f"the grader gave {value}, not a number from 0 to 1")
        if value == 1 and takes_anything(dataset, entry):
            value = float(answer.strip().lower() == str(entry["answer"]).strip().lower())
        return Score(value if self.partial else float(value >= 1))


def takes_anything(dataset: Any, entry: dict[str, Any]) -> bool:
    """Some graders ask only whether the answer is one certain word, and everything else counts as its opposite."""
    try:
        return float(dataset.score_answer(NONSENSE, entry)) == 1
    except Exception:
        return False


def grades_its_own(dataset: Any, entry: dict[str, Any]) -> bool:
    try:
        return entry["answer"] is not None and float(dataset.score_answer(entry["answer"], entry)) == 1
    except Exception:
        return False
