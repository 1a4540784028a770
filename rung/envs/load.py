"""An environment from its spelling: `load_environment("gsm8k:data/gsm8k")`.

    gsm8k:PATH  math:PATH  rows:PATH           rows that are read            (rung.envs.files)
    arithmetic  countdown  guess  lookup       tasks that are made
    needle  counting  regression  deduction    tasks that are made, to measure what length and thinking do
    puzzles  humaneval                         programs to write, run in the sandbox; held out only
    reasoning-gym/NAME                         any data set of that package
    FILE.py:FUNCTION                           a function that returns an Environment
    A=0.7,B=0.3                                a mixture with shares

Options stand behind a question mark: `arithmetic?digits=3&format=tags`. Every single-turn environment takes
`tools=calculator`, several joined by +, with `max_turns` and `tools_in_template`. An environment's name, which
begins the key of its tasks, is its spelling without what does not change the tasks.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rung.envs.arithmetic import arithmetic
from rung.envs.countdown import countdown
from rung.envs.counting import counting
from rung.envs.deduction import deduction
from rung.envs.environment import Environment
from rung.envs.files import gsm8k, math_rows, rows
from rung.envs.guess import guess
from rung.envs.humaneval import humaneval
from rung.envs.lookup import lookup, lookup_tool
from rung.envs.mixture import mixture
from rung.envs.needle import needle
from rung.envs.options import canonical, closest, convert, members, reject_unknown, split_options
from rung.envs.puzzles.build import puzzles
from rung.envs.reasoning_gym import reasoning_gym
from rung.envs.regression import regression
from rung.envs.toolbox import calculator, python
from rung.envs.tools import Tool, with_tools
from rung.envs.user import user_environment
from rung.errors import UserError
from rung.rewards.code import python_tool

MADE: dict[str, Callable[..., Environment]] = {
    "arithmetic": arithmetic,
    "countdown": countdown,
    "counting": counting,
    "deduction": deduction,
    "guess": guess,
    "humaneval": humaneval,
    "lookup": lookup,
    "needle": needle,
    "puzzles": puzzles,
    "regression": regression,
}
READ: dict[str, Callable[..., Environment]] = {"gsm8k": gsm8k, "math": math_rows, "rows": rows}
TOOLS = ("calculator", "search", "python")
TOOL_OPTIONS = {"tools": str, "max_turns": int, "tools_in_template": bool}
NAMELESS = ("format", "partial", "reward", *TOOL_OPTIONS)  # options that do not change which tasks there are

RunProgram = Callable[[str], str]


def load_environment(
    spec: str,
    *,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    run_program: RunProgram | None = None,
) -> Environment:
    """`seed` chooses what is drawn for training; the test set does not depend on it. Sizes are the
    environment's own unless given. `run_program` takes the place of the sandbox, for `tools=python`."""
    sizes: dict[str, Any] = {"seed": seed, "train_size": train_size, "test_size": test_size}
    parts = members(spec)
    if len(parts) == 1:
        return load_one(parts[0][0], sizes, run_program)
    weights = None if parts[0][1] is None else [weight for _, weight in parts if weight is not None]
    loaded = [load_one(part, sizes, run_program) for part, _ in parts]
    return mixture(loaded, weights, seed, train_size)


def load_one(spec: str, sizes: dict[str, Any], run_program: RunProgram | None) -> Environment:
    head, options = split_options(spec)
    tool_options = {
        key: convert(head, key, options.pop(key), kind)
        for key, kind in TOOL_OPTIONS.items()
        if key in options
    }
    kind, _, place = head.partition(":")
    if kind.endswith(".py"):
        environment = user_environment(kind, place, options, sizes)
    elif kind.startswith("reasoning-gym/"):
        dataset = kind.partition("/")[2].replace("-", "_")
        name, form = canonical(f"reasoning-gym/{dataset}", named(options)), options.pop("format", "")
        partial = convert(head, "partial", options.pop("partial", "true"), bool)
        environment = reasoning_gym(name, dataset, options, format=form, partial=partial, **sizes)
    elif kind in MADE and not place:
        environment = MADE[kind](
            canonical(kind, named(options)), **converted(spec, MADE[kind], options), **sizes
        )
    elif kind in READ:
        # GSM8K is one thing wherever it lies; of other rows the file's name tells them apart.
        name = kind if kind == "gsm8k" else f"{kind}/{Path(place).stem}".replace(":", "_")
        environment = READ[kind](name, place, **converted(spec, READ[kind], options), **sizes)
    else:
        kinds = [*MADE, *(f"{name}:PATH" for name in READ), "reasoning-gym/NAME", "FILE.py:FUNCTION"]
        raise UserError(
            f"there is no environment {head!r}; {closest(kind, [*MADE, *READ])} Known: {', '.join(kinds)}"
        )
    return equipped(environment, tool_options, run_program)


def named(options: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in options.items() if key not in NAMELESS}


def converted(spec: str, build: Callable[..., Environment], options: dict[str, str]) -> dict[str, Any]:
    """Options as the keyword-only parameters of a builder want them."""
    parameters = inspect.signature(build).parameters.values()
    hints = typing.get_type_hints(build)
    sizes = ("seed", "train_size", "test_size")
    kinds = {p.name: hints[p.name] for p in parameters if p.kind == p.KEYWORD_ONLY and p.name not in sizes}
    reject_unknown(spec, options, [*kinds, *TOOL_OPTIONS])
    return {key: convert(spec, key, text, kinds[key]) for key, text in options.items()}


def equipped(
    environment: Environment, options: dict[str, Any], run_program: RunProgram | None
) -> Environment:
    """The environment with the tools asked for."""
    if not options:
        return environment
    name = environment.name
    if "tools" not in options:
        raise UserError(
            f"{name}: {next(iter(options))} is about tools, and there are none; write tools=calculator"
        )
    if environment.reply is not None:
        raise UserError(
            f"{name}: has turns of its own, so tools cannot be added to it; leave tools={options['tools']} out"
        )
    tools = [tool_named(tool, name, run_program) for tool in options["tools"].replace(" ", "+").split("+")]
    return with_tools(
        environment,
        tools,
        max_turns=options.get("max_turns", 4),
        in_template=options.get("tools_in_template", False),
    )


def tool_named(tool: str, name: str, run_program: RunProgram | None) -> Tool:
    if tool == "calculator":
        return calculator()
    if tool == "search":
        return lookup_tool()
    if tool != "python":
        raise UserError(f"{name}: there is no tool {tool!r}; {closest(tool, TOOLS)}")
    return python(run_program or python_tool)
