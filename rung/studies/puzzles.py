"""How well a model writes programs in each language: pass@k on twenty puzzles, and what goes wrong.

    def measure(env, out):
        return evaluate("smollm2-135m", env, out=out, samples=10)

    study(measure, "results/puzzles", ("python", "rust"))

After the experiment in which models wrote Project-Euler-like puzzles in common and rare languages. Each language
is one evaluation of `puzzles?language=...`, in a folder of its own below `out`; its wrong programs are then run
once more for what the compiler said of them, which result files do not keep (`rung.studies.mistakes`). All of it
goes on where it stopped when the same study is asked for again. A language whose toolchain this machine lacks is
listed as missing, with the way to get it, and nothing is sampled for it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rung.errors import UserError
from rung.eval.records import Sample
from rung.rewards.extract import without_thinking
from rung.rewards.score import Score
from rung.run import write_atomically
from rung.sandbox import pool
from rung.sandbox.extract import extract
from rung.sandbox.languages import LANGUAGES, language, toolchain
from rung.sandbox.program import Case, Program
from rung.studies.mistakes import KINDS, Mistake, mistake

if TYPE_CHECKING:
    from rung.pipelines.evaluate import Evaluation

Measure = Callable[[str, Path], "Evaluation"]  # an environment's spelling, the result folder
Say = Callable[[str], None]


@dataclass(frozen=True)
class Cell:
    """One language: how the model did, and what went wrong in each wrong sample."""

    language: str
    evaluation: Evaluation | None  # None where the toolchain is missing
    mistakes: tuple[tuple[str, int, Mistake], ...] = ()  # task, attempt, mistake
    missing: str = ""  # how to get the toolchain

    @property
    def title(self) -> str:
        return LANGUAGES[self.language].title

    def counts(self) -> dict[str, int]:
        found = Counter(each.kind for _, _, each in self.mistakes)
        return {kind: found[kind] for kind in KINDS}

    def right(self) -> dict[str, tuple[int, int]]:
        """Puzzle -> (right, scored) attempts."""
        assert self.evaluation
        found: dict[str, tuple[int, int]] = {}
        for sample in self.evaluation.result.samples:
            right, scored = found.get(puzzle_of(sample.task), (0, 0))
            known = isinstance(sample.verdict, Score)
            found[puzzle_of(sample.task)] = (right + is_right(sample), scored + known)
        return found

    def tokens(self) -> int:
        assert self.evaluation
        return sum(sample.tokens for sample in self.evaluation.result.samples)

    def tokens_per_right(self) -> float | None:
        """What one right program cost, wrong ones included."""
        assert self.evaluation
        right = sum(is_right(sample) for sample in self.evaluation.result.samples)
        return self.tokens() / right if right else None


@dataclass(frozen=True)
class Study:
    out: Path
    cells: tuple[Cell, ...]

    @property
    def judged(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.evaluation is not None]

    @property
    def model(self) -> str:
        return next(cell.evaluation.name for cell in self.cells if cell.evaluation)

    @property
    def samples(self) -> int:
        return next(cell.evaluation.result.header.attempts for cell in self.cells if cell.evaluation)


def study(
    measure: Measure,
    out: str | Path,
    languages: Sequence[str] = (),
    difficulty: int = 0,
    say: Say = lambda line: None,
) -> Study:
    """`measure` is `rung.pipelines.evaluate.evaluate` of a model. Without `languages` it is all of them."""
    wanted = list(dict.fromkeys(language(name).name for name in languages)) or list(LANGUAGES)
    if all(toolchain(name) is None for name in wanted):
        raise UserError(
            f"this machine can run none of {', '.join(wanted)}; `rung languages` shows how to get them"
        )
    cells = []
    for name in wanted:
        if toolchain(name) is None:
            say(f"{LANGUAGES[name].title}: not on this machine; {LANGUAGES[name].install}")
            cells.append(Cell(name, None, missing=LANGUAGES[name].install))
            continue
        env = f"puzzles?language={name}" + (f"&difficulty={difficulty}" if difficulty else "")
        made = measure(env, Path(out) / name)
        cells.append(Cell(name, made, explained(made, name, Path(out) / f"{name}.mistakes.json")))
        say(line_of(cells[-1]))
    return Study(Path(out), tuple(cells))


def line_of(cell: Cell) -> str:
    assert cell.evaluation
    tally = cell.evaluation.tally
    if tally.accuracy is None:
        return f"{cell.title}: no answer could be judged"
    return f"{cell.title}: pass@1 {tally.accuracy.value:.1%}, {cell.tokens():,} tokens"


def puzzle_of(task: str) -> str:
    """`puzzles?language=rust:01_distinct_sevens` -> `01_distinct_sevens`"""
    return task.rpartition(":")[2]


def is_right(sample: Sample) -> bool:
    return isinstance(sample.verdict, Score) and sample.verdict.value >= 1


# ---- what went wrong ----


def explained(made: Evaluation, name: str, file: Path) -> tuple[tuple[str, int, Mistake], ...]:
    """The mistakes of all wrong samples, kept in a file beside the evaluation."""
    wrong = [s for s in made.result.samples if isinstance(s.verdict, Score) and not is_right(s)]
    keys = [[sample.task, sample.index, sample.answer] for sample in wrong]
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["samples"] == keys:
            return tuple((task, index, Mistake(**found)) for task, index, found in kept["mistakes"])
    found = mistakes(made, wrong, name)
    rows = [[task, index, asdict(each)] for task, index, each in found]
    write_atomically(file, json.dumps({"samples": keys, "mistakes": rows}, indent=1).encode())
    return found


def mistakes(made: Evaluation, wrong: Sequence[Sample], name: str) -> tuple[tuple[str, int, Mistake], ...]:
    """Run again, for the messages. A program that passes now, or cannot be judged now, has no mistake."""
    cases = {prompt.task: prompt.reference["cases"] for prompt in made.result.prompts}
    codes = [extract(without_thinking(sample.answer), name) for sample in wrong]
    programs = [
        Program(name, code, tuple(Case(each["stdin"], each["stdout"]) for each in cases[sample.task]))
        for sample, code in zip(wrong, codes, strict=True)
        if code is not None
    ]
    results = pool.shared().map(programs)
    found = []
    for sample, code in zip(wrong, codes, strict=True):
        each = mistake(name, code, None if code is None else next(results), sample.finish)
        if each is not None:
            found.append((sample.task, sample.index, each))
    return tuple(found)
