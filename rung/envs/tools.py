"""Tools: an environment of one turn becomes one of several, in which the model may call functions.

The model's text is searched for calls (`rung.envs.tool_calls`); each is answered by a message of role `tool`,
a call that is broken, unknown or has wrong arguments by a sentence that says so. A turn without a call ends
the episode and is graded as before. A call that comes in the last turn is not run, and is no answer: what
stands inside it is not graded.

Many small models' templates know no tools, so by default the system message explains them and the form of a
call; `in_template=True` leaves that to the template of a model that was trained with one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rung.envs.environment import Environment, Messages, Task, Worked
from rung.envs.play import model_turns
from rung.envs.sequences import Mapped
from rung.envs.tool_calls import Broken, Call, parse
from rung.rewards.score import Attempt, Reward, Score, Verdict

LONGEST = 2000  # characters of one result
MOST_CALLS = 8  # in one turn
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


class ToolError(Exception):
    """The tool's own words to the model about what it was given."""


@dataclass(frozen=True)
class Tool:
    """A function a model may call: JSON in, text out. It must not remember one conversation in another."""

    name: str
    description: str
    properties: Mapping[str, Mapping[str, Any]]  # name -> JSON schema, all required
    sample: Mapping[str, Any]  # arguments of a sensible call, to show its form
    run: Callable[..., str]

    @property
    def schema(self) -> dict[str, Any]:
        parameters = {
            "type": "object",
            "properties": dict(self.properties),
            "required": list(self.properties),
        }
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


def with_tools(
    environment: Environment, tools: Sequence[Tool], *, max_turns: int = 4, in_template: bool = False
) -> Environment:
    """The same tasks and grade, with tools."""
    by_name = {tool.name: tool for tool in tools}
    system = "" if in_template else explained(tools)

    def reply(task: Task, messages: Messages) -> Messages | None:
        calls = parse(messages[-1]["content"]).calls
        answers = [answer(call, by_name) for call in calls[:MOST_CALLS]]
        if len(calls) > MOST_CALLS:
            answers.append(
                message("", f"Error: at most {MOST_CALLS} calls in one turn; the rest were not run.")
            )
        return answers or None

    def prepared(task: Task) -> Task:
        return replace(task, messages=with_system(task.messages, system)) if system else task

    return replace(
        environment,
        train=Mapped(environment.train, prepared),
        test=Mapped(environment.test, prepared),
        reward=AfterTools(environment.reward),
        tools=tuple(tool.schema for tool in tools) if in_template else (),
        reply=reply,
        max_turns=max_turns,
        example=with_first_call(environment.example, prepared, tools[0]),
    )


@dataclass(frozen=True)
class AfterTools:
    """The grade of the last turn, what stands in a call left out, with the calls counted."""

    reward: Reward

    @property
    def trusted(self) -> bool:
        return getattr(self.reward, "trusted", False)

    def __call__(self, attempt: Attempt) -> Verdict:
        last = parse(attempt.answer)
        graded = replace(attempt, answer=last.text) if last.calls else attempt
        verdict = self.reward(graded)
        return (
            replace(verdict, parts={**verdict.parts, **counts(attempt)})
            if isinstance(verdict, Score)
            else verdict
        )


def answer(call: Call | Broken, tools: Mapping[str, Tool]) -> dict[str, Any]:
    """The message that answers a call."""
    if isinstance(call, Broken):
        return message("", f"Error: {call.problem}")
    if call.name not in tools:
        return message(call.name, f"Error: there is no tool {call.name[:60]!r}. There is {', '.join(tools)}.")
    tool = tools[call.name]
    if problem := wrong_arguments(call.arguments, tool):
        return message(tool.name, f"Error: {problem}")
    try:
        result = str(tool.run(**call.arguments))
    except ToolError as error:
        result = f"Error: {error}"
    except Exception as error:  # a tool is the user's code, run on what a model wrote
        result = f"Error: {tool.name} failed: {type(error).__name__}: {error}"
    if len(result) > LONGEST:
        result = f"{result[:LONGEST]}\n(cut after {LONGEST} of {len(result)} characters)"
    return message(tool.name, result)


def message(name: str, content: str) -> dict[str, Any]:
    return (
        {"role": "tool", "name": name, "content": content} if name else {"role": "tool", "content": content}
    )


def wrong_arguments(arguments: Mapping[str, Any], tool: Tool) -> str:
    """What is wrong with the arguments of a call, in words; empty if nothing is."""
    needs = ", ".join(tool.properties)
    for key in arguments:
        if key not in tool.properties:
            return f"{tool.name} has no argument {key[:60]!r}; it takes {needs}."
    for key, schema in tool.properties.items():
        if key not in arguments:
            return f"{tool.name} needs the argument {key!r}; it takes {needs}."
        kind, value = schema.get("type"), arguments[key]
        # True is an int to Python and not to JSON.
        fits = isinstance(value, TYPES.get(str(kind), (object,))) and (
            kind == "boolean" or not isinstance(value, bool)
        )
        if kind in TYPES and not fits:
            return f"the argument {key!r} of {tool.name} must be of type {kind}."
        if "enum" in schema and value not in schema["enum"]:
            return (
                f"the argument {key!r} of {tool.name} must be one of {', '.join(map(str, schema['enum']))}."
            )
    return ""


def counts(attempt: Attempt) -> dict[str, float]:
    """How often tools were called and how often in vain, for the log."""
    calls = sum(len(parse(turn).calls) for turn in model_turns(attempt.messages))
    answers = [m for m in attempt.messages if m["role"] == "tool"]
    failed = sum(str(m["content"]).startswith("Error: ") for m in answers)
    return {"tool_calls": float(calls), "tool_errors": float(failed)}


def explained(tools: Sequence[Tool]) -> str:
    """The system message that teaches the call; one line a tool."""
    lines = []
    for tool in tools:
        arguments = ", ".join(
            f"{key}: {schema.get('type', 'any')}" for key, schema in tool.properties.items()
        )
        lines.append(f"{tool.name}({arguments}): {tool.description}")
    form = called(tools[0])
    return (
        "You can call tools:\n"
        + "\n".join(lines)
        + f"\nTo call one, write for example\n{form}\nand wait for its result."
    )


def called(tool: Tool) -> str:
    """The sample call, in the form the system message teaches."""
    return f"<tool_call>{json.dumps({'name': tool.name, 'arguments': dict(tool.sample)})}</tool_call>"


def with_system(messages: tuple[Mapping[str, Any], ...], text: str) -> tuple[Mapping[str, Any], ...]:
    if messages and messages[0]["role"] == "system":
        return ({**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:])
    return ({"role": "system", "content": text}, *messages)


def with_first_call(example: Worked | None, prepared: Callable[[Task], Task], tool: Tool) -> Worked | None:
    """The worked example, with a call before the right answer."""
    if example is None:
        return None
    return Worked(prepared(example.task), (called(tool), *example.right), example.wrong)
