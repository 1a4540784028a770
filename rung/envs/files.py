"""Tasks that are read: GSM8K, MATH-style problems, and any rows with a prompt and an answer.

    gsm8k:PATH     question, answer ending in `#### 42`            numbers are compared
    math:PATH      problem (or question), answer (or solution with \\boxed{})   compared as mathematics
    rows:PATH      prompt (text or messages), answer               the reward named by `reward=`

PATH is a JSONL, JSON or Parquet file, a hub id, or a folder. A folder with train.* and test.* files is split
as they say; otherwise the `test_size` rows whose prompts have the lowest SHA-256 are held out, whatever their
order. A training row whose prompt also stands in the test set is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rung.data.files import SUFFIXES, files_of, read_rows
from rung.envs.answers import FORMATS, asker, worked
from rung.envs.environment import Environment, Task
from rung.envs.generated import TEST_SIZE, Ask, Problem, identity
from rung.envs.options import closest
from rung.errors import UserError
from rung.rewards.countdown import Countdown
from rung.rewards.extract import boxed
from rung.rewards.matching import Choice, Exact
from rung.rewards.math_answer import MathAnswer
from rung.rewards.numeric import Numeric
from rung.rewards.score import Reward
from rung.rewards.user import load_reward

Read = Callable[[Mapping[str, Any], str], Problem]  # a row and its origin
GSM8K = "openai/gsm8k:main"
REWARDS: dict[str, Reward] = {
    "exact": Exact(),
    "numeric": Numeric(),
    "math": MathAnswer(),
    "choice": Choice(),
    "countdown": Countdown(),
}


def gsm8k(
    name: str, path: str, *, format: str = "plain", seed: int, train_size: int | None, test_size: int | None
) -> Environment:
    del seed  # the rows are what they are

    def read(row: Mapping[str, Any], origin: str) -> Problem:
        question, solution = text_of(row, ("question",), origin), text_of(row, ("answer",), origin)
        _, marker, answer = solution.rpartition("####")
        if not marker:
            raise UserError(
                f"{origin}: the answer does not end in '#### NUMBER', as rows of GSM8K do; try rows:{path}"
            )
        return Problem(question, answer.strip().replace(",", ""), answer.strip(), {"worked": solution})

    return from_rows(name, path or GSM8K, read, format, Numeric(), train_size, test_size)


def math_rows(
    name: str, path: str, *, format: str = "plain", seed: int, train_size: int | None, test_size: int | None
) -> Environment:
    del seed

    def read(row: Mapping[str, Any], origin: str) -> Problem:
        question = text_of(row, ("problem", "question", "prompt"), origin)
        if row.get("answer") is not None:
            answer = str(row["answer"])
        else:
            answer = boxed(text_of(row, ("answer", "solution"), origin)) or ""
        if not answer:
            raise UserError(f"{origin}: the solution holds no \\boxed{{...}} answer; add a column `answer`")
        return Problem(question, answer, f"${answer}$" if "\\" in answer else answer)

    return from_rows(name, needed(name, path), read, format, MathAnswer(), train_size, test_size)


def rows(
    name: str,
    path: str,
    *,
    reward: str = "exact",
    format: str = "none",
    seed: int,
    train_size: int | None,
    test_size: int | None,
) -> Environment:
    del seed
    if ".py:" not in reward and reward not in REWARDS:
        remedy = f"{closest(reward, REWARDS)} A function of your own is reward=FILE.py:FUNCTION"
        raise UserError(f"{name}: there is no reward {reward!r}; {remedy}")
    grade = load_reward(reward) if ".py:" in reward else REWARDS[reward]

    def read(row: Mapping[str, Any], origin: str) -> Problem:
        prompt = row.get("prompt")
        if isinstance(prompt, list) and prompt:
            question = "\n".join(str(message.get("content", "")) for message in prompt)
        else:
            question, prompt = text_of(row, ("prompt", "question"), origin), None
        if "answer" not in row:
            raise UserError(f"{origin}: the row has no column `answer`; it has {', '.join(row)}")
        extra = {key: value for key, value in row.items() if key not in ("prompt", "answer")}
        return Problem(
            question, row["answer"], str(row["answer"]), extra | ({"messages": prompt} if prompt else {})
        )

    return from_rows(name, needed(name, path), read, format, grade, train_size, test_size)


def needed(name: str, path: str) -> str:
    if not path:
        kind = name.partition("/")[0]
        raise UserError(f"{kind} needs a file, a folder or a hub id; write {kind}:PATH")
    return path


def text_of(row: Mapping[str, Any], columns: Sequence[str], origin: str) -> str:
    for column in columns:
        if isinstance(row.get(column), str) and row[column].strip():
            return row[column]
    raise UserError(f"{origin}: the row has no text in {' or '.join(columns)}; it has {', '.join(row)}")


def from_rows(
    name: str,
    path: str,
    read: Read,
    format: str,
    reward: Reward,
    train_size: int | None,
    test_size: int | None,
) -> Environment:
    train_path, test_path = splits(path)
    ask = with_messages(asker(format, name), format)
    train = [read(row, origin) for row, origin in read_rows(train_path)]
    if test_path:
        tests = list(enumerate(read(row, origin) for row, origin in read_rows(test_path)))[:test_size]
    else:
        size = min(TEST_SIZE if test_size is None else test_size, len(train) // 4)
        order = sorted(enumerate(train), key=lambda entry: (digest(entry[1]), entry[0]))
        tests = order[:size]
    asked = {identity(problem) for _, problem in tests}
    kept = [(i, problem) for i, problem in enumerate(train) if identity(problem) not in asked][:train_size]
    example = next((worked(name, problem, format, wrong="no answer") for _, problem in tests or kept), None)
    return Environment(
        name,
        [Task(f"{name}:train:{i}", tuple(ask(p)), p.reference, p.extra) for i, p in kept],
        [Task(f"{name}:test:{i}", tuple(ask(p)), p.reference, p.extra) for i, p in tests],
        reward,
        example=example,
    )


def digest(problem: Problem) -> bytes:
    return hashlib.sha256(identity(problem).encode()).digest()


def splits(path: str) -> tuple[str, str | None]:
    """What is trained on and what is held out by the owner of the data, if they said so."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        files = [file for file in sorted(folder.rglob("*")) if file.suffix in SUFFIXES]
        train, test = ([str(f) for f in files if f.stem.startswith(split)] for split in ("train", "test"))
        if len(train) == len(test) == 1:
            return train[0], test[0]
        return path, None
    if files_of(path) is None and path.count(":") == 1:  # owner/name:config; a third part names one split
        return f"{path}:train", f"{path}:test"
    return path, None


def with_messages(ask: Ask, format: str) -> Ask:
    """A prompt that is a conversation already is put as it is, the request for a format at its end."""

    def ask_messages(problem: Problem) -> Sequence[Mapping[str, Any]]:
        messages = problem.extra.get("messages")
        if messages is None:
            return ask(problem)
        request = FORMATS[format].request
        last = (
            {**messages[-1], "content": f"{messages[-1]['content']}\n\n{request}"}
            if request
            else messages[-1]
        )
        return [*messages[:-1], last]

    return ask_messages
