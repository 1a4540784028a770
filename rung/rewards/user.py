"""A user's own reward function, from a file: `load_reward("rewards.py:accuracy")`.

Three signatures are known by their parameters, so functions written for TRL or verl work as they are:

    TRL    f(prompts, completions, **columns) -> [float or None, ...]      called with many at once; None abstains
    verl   f(data_source, solution_str, ground_truth, extra_info) -> float or {"score": float, ...}
    rung   f(attempt) -> float or Score, Abstain, Failure

Columns of TRL's form are the further columns of the task's row, `completion_ids`, and the reference, under its own
name and, where the row has no such column, as `answer`, `solution` and `ground_truth`. Completions are lists of
messages, as TRL gives them for conversational data, unless the parameter is annotated `list[str]`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from rung.errors import UserError
from rung.rewards.calling import as_number, as_verdict, with_parts
from rung.rewards.score import Abstain, Attempt, Failure, Verdict

Style = Literal["trl", "verl", "rung"]
REFERENCE = ("reference", "answer", "solution", "ground_truth")
SIGNATURES = (
    "f(prompts, completions, **columns) as in TRL, f(data_source, solution_str, ground_truth, extra_info) as in "
    "verl, or f(attempt)"
)


@dataclass(frozen=True)
class UserReward:
    """The file and the name, not the function: any process can load it anew."""

    file: str
    name: str
    style: Style

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A worker that has received the reward has loaded its file: that time is nobody's attempt."""
        self.__dict__.update(state)
        function_of(self.file, self.name)

    @property
    def batched(self) -> bool:
        return self.style == "trl"

    def __call__(self, attempt: Attempt) -> Verdict:
        function = function_of(self.file, self.name)
        if self.style == "trl":
            return self.many([attempt])[0]
        if self.style == "verl":
            return _verl(function, attempt)
        return as_verdict(_awaited(function(attempt)))

    def many(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        """All at once for TRL's form. A wrong number of scores fails all: nobody knows whose they are."""
        if self.style != "trl":
            return [self(attempt) for attempt in attempts]
        function = function_of(self.file, self.name)
        values = _awaited(function(**_trl_arguments(function, attempts)))
        if not isinstance(values, Sequence) and hasattr(values, "tolist"):
            values = values.tolist()
        if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
            got = f"{type(values).__name__}, not a list of scores"
        elif len(values) != len(attempts):
            got = f"{len(values)} scores for {len(attempts)} completions"
        else:
            return [Abstain(f"{self.name} returned None") if v is None else as_verdict(v) for v in values]
        if len(attempts) > 1:
            raise ValueError(f"{self.name} returned {got}")  # the caller asks again, one at a time
        return [Failure("invalid", f"{self.name} returned {got}")]


def load_reward(spec: str) -> UserReward:
    """`spec` is "path/to/file.py:function"."""
    path, _, name = spec.rpartition(":")
    file = Path(path).expanduser()
    if not path.endswith(".py") or not name.isidentifier():
        raise UserError(
            f"the reward {spec!r} does not name a function in a file; write path/to/file.py:function"
        )
    if not file.is_file():
        raise UserError(f"the reward {spec!r}: there is no file {file}; write path/to/file.py:function")
    try:
        function = function_of(str(file.resolve()), name)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # user code: the boundary
        raise UserError(
            f"the reward file {file} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return UserReward(str(file.resolve()), name, style_of(function, spec))


@cache
def function_of(file: str, name: str) -> Callable[..., Any]:
    module = load_file(file)
    function = getattr(module, name, None)
    if not callable(function):
        there = sorted(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise UserError(f"{file} has no function {name!r}; it has {there}")
    return function


@cache
def load_file(file: str) -> Any:
    """The module of a file, under a name that is the same in every process."""
    name = module_name(file)
    folder = str(Path(file).parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last: its neighbours can be imported and can hide nothing
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles inside the file look it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def module_name(file: str) -> str:
    return f"rung_user_{Path(file).stem}_{zlib.crc32(file.encode()):08x}"


def files_behind(content: bytes) -> tuple[str, ...]:
    """The loaded files that a pickle refers to: whoever opens it must load them first."""
    loaded = [module for name, module in list(sys.modules.items()) if name.startswith("rung_user_")]
    return tuple(str(module.__file__) for module in loaded if module.__name__.encode() in content)


def style_of(function: Callable[..., Any], spec: str) -> Style:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        raise UserError(f"the reward {spec!r} has no readable signature; it may be {SIGNATURES}") from None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if "completions" in parameters:
        return "trl"
    if {"solution_str", "ground_truth"} <= parameters.keys():
        return "verl"
    required = [p for p in parameters.values() if p.default is p.empty and p.kind in positional]
    keywords = [p for p in parameters.values() if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    if len(required) == 1 and not keywords:
        return "rung"
    raise UserError(f"the reward {spec!r} takes {tuple(parameters)}; it may be {SIGNATURES}")


def _verl(function: Callable[..., Any], attempt: Attempt) -> Verdict:
    parameters = inspect.signature(function).parameters
    given = {
        "data_source": attempt.extra.get("data_source", attempt.task.partition(":")[0]),
        "solution_str": attempt.answer,
        "ground_truth": attempt.reference,
        "extra_info": attempt.extra.get("extra_info", dict(attempt.extra)),
    }
    value = _awaited(function(**{name: given[name] for name in given if _takes(parameters, name)}))
    if not isinstance(value, dict):
        return as_verdict(value)
    score = as_number(value.get("score"))
    if isinstance(score, str):
        return Failure("invalid", f"the reward returned {set(value)} with a score of {score}")
    return with_parts(score, {str(name): part for name, part in value.items() if name != "score"})


def _trl_arguments(function: Callable[..., Any], attempts: Sequence[Attempt]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    names = sorted({name for attempt in attempts for name in attempt.extra})
    given: dict[str, Any] = {name: [attempt.reference for attempt in attempts] for name in REFERENCE}
    given |= {name: [attempt.extra.get(name) for attempt in attempts] for name in names}
    given |= {"completion_ids": [list(attempt.token_ids) for attempt in attempts]}
    if _wants_text(parameters["completions"]):
        given |= {
            "prompts": [str(attempt.prompt[-1]["content"]) if attempt.prompt else "" for attempt in attempts]
        }
        given |= {"completions": [attempt.answer for attempt in attempts]}
    else:
        given |= {"prompts": [[dict(message) for message in attempt.prompt] for attempt in attempts]}
        given |= {"completions": [_messages(attempt) for attempt in attempts]}
    return {name: value for name, value in given.items() if _takes(parameters, name)}


def _messages(attempt: Attempt) -> list[dict[str, Any]]:
    if attempt.messages:
        return [dict(message) for message in attempt.messages]
    return [{"role": "assistant", "content": attempt.answer}]


def _wants_text(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation if isinstance(parameter.annotation, str) else repr(parameter.annotation)
    return annotation.replace(" ", "").split(".")[-1] in ("list[str]", "List[str]", "Sequence[str]")


def _takes(parameters: Any, name: str) -> bool:
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _awaited(value: Any) -> Any:
    async def wait() -> Any:
        return await value

    return asyncio.run(wait()) if inspect.isawaitable(value) else value
