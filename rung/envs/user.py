"""A user's own environment, from a file: `FILE.py:function?key=value`.

The function returns a rung Environment, or an object as `verifiers` environments are (0.1), or a Taskset or Env
of `verifiers` 0.4. Its keyword parameters are its options; where it has `seed`, `train_size` and `test_size` it
gets those too.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rung.envs.environment import Environment
from rung.envs.options import convert, reject_unknown
from rung.envs.verifiers import from_verifiers
from rung.envs.verifiers_tasksets import from_taskset
from rung.errors import UserError
from rung.rewards.user import function_of


def user_environment(
    path: str, function: str, options: Mapping[str, str], sizes: Mapping[str, int | None]
) -> Environment:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"there is no file {path}; write FILE.py:FUNCTION with a path from {Path.cwd()}")
    name, function = f"{path}:{function or 'load_environment'}", function or "load_environment"
    try:
        build = function_of(str(file.resolve()), function)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # user code: the boundary
        raise UserError(f"the file {path} cannot be loaded: {type(error).__name__}: {error}") from error
    parameters = inspect.signature(build).parameters
    hints = typing.get_type_hints(build)
    if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        reject_unknown(name, options, [key for key in parameters if key not in sizes])
    given = {key: convert(name, key, text, hints.get(key, str)) for key, text in options.items()}
    made = build(
        **given, **{key: value for key, value in sizes.items() if key in parameters and value is not None}
    )
    if isinstance(made, Environment):
        return cut(made, sizes, parameters)
    if hasattr(made, "rubric") and hasattr(made, "dataset"):
        return from_verifiers(file.stem, made, sizes["train_size"], sizes["test_size"])
    if hasattr(made, "taskset") or hasattr(made, "bounded"):
        return from_taskset(file.stem, made, sizes["train_size"], sizes["test_size"])
    raise UserError(
        f"{name} returned {type(made).__name__}; return a rung.envs.environment.Environment, a Taskset or Env of "
        "verifiers 0.4, or an object with `dataset` and `rubric`"
    )


def cut(
    environment: Environment, sizes: Mapping[str, int | None], parameters: Mapping[str, Any]
) -> Environment:
    """No more tasks than asked for, where the function did not see to that itself."""
    for split in ("train", "test"):
        size, tasks = sizes[f"{split}_size"], getattr(environment, split)
        if size is not None and f"{split}_size" not in parameters and len(tasks) > size:
            environment = replace(environment, **{split: tasks[:size]})
    return environment
