"""`verifiers`-style environments (0.1.x): a dataset, a rubric, and replies between turns.

The object that such a module's `load_environment()` returns is read by its public names:

    dataset, eval_dataset        rows with prompt (messages) or question, answer, info, task
    rubric.funcs, .weights       functions of prompt, completion, answer, state, ...; their weighted sum is the score
    env_response, is_completed   between turns; their absence makes an environment of one turn
    setup_state, oai_tools, max_turns

Functions may be coroutines. A rubric's function that raises is a Failure, where the package itself says 0.
Nothing of the package is imported. Group rewards (over all rollouts of a prompt) are refused.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from rung.envs.environment import Environment, Messages, Task
from rung.envs.play import task_of
from rung.envs.tool_calls import Call, parse
from rung.envs.worlds import NotRepeatable, Worlds
from rung.errors import UserError
from rung.rewards.score import Attempt, Failure, Score, Verdict

GROUP_PARAMETERS = {"prompts", "completions", "answers", "states", "tasks", "infos"}


def from_verifiers(
    name: str, theirs: Any, train_size: int | None = None, test_size: int | None = None
) -> Environment:
    """A rung environment from the object that a module's `load_environment()` returned."""
    functions = rubric_functions(theirs.rubric)
    if not functions:
        raise UserError(f"{name}: the rubric of this environment has no reward function")
    grouped = [f.__name__ for f, *_ in functions if GROUP_PARAMETERS & set(inspect.signature(f).parameters)]
    if grouped:
        raise UserError(
            f"{name}: {grouped[0]} scores a whole group at once; rung grades one attempt at a time"
        )
    several = hasattr(theirs, "env_response")
    worlds = Worlds(lambda task: Conversation(theirs, task))

    train, test = tasks_of(name, theirs, "train"), tasks_of(name, theirs, "test")
    asked = {str(task.messages) for task in test}
    return Environment(
        name,
        [task for task in train if str(task.messages) not in asked][:train_size],
        test[:test_size],
        RubricGrade(functions, worlds if several else None),
        tuple(getattr(theirs, "oai_tools", None) or ()),
        worlds.reply if several else None,
        limit if several and (limit := getattr(theirs, "max_turns", 10)) > 0 else (10 if several else 1),
    )


class Part(NamedTuple):
    """A function of a rubric, its weight, and the further things its rubric hands it, as its parser."""

    function: Callable
    weight: float
    objects: Mapping[str, Any]


def rubric_functions(rubric: Any) -> list[Part]:
    """The functions of a rubric, or of a group of them."""
    if hasattr(rubric, "rubrics"):
        return [part for inner in rubric.rubrics for part in rubric_functions(inner)]
    functions = getattr(rubric, "funcs", None) or getattr(rubric, "reward_funcs", None) or []
    weights = (
        getattr(rubric, "weights", None) or getattr(rubric, "reward_weights", None) or [1.0] * len(functions)
    )
    objects = {"parser": getattr(rubric, "parser", None), **getattr(rubric, "class_objects", {})}
    return [Part(function, weight, objects) for function, weight in zip(functions, weights, strict=True)]


def tasks_of(name: str, theirs: Any, split: str) -> list[Task]:
    rows = getattr(theirs, "dataset" if split == "train" else "eval_dataset", None)
    return (
        [task_from(row, f"{name}:{split}:{i}", theirs) for i, row in enumerate(rows)]
        if rows is not None
        else []
    )


def task_from(row: Mapping[str, Any], key: str, theirs: Any) -> Task:
    prompt = row.get("prompt") or row.get("question")
    if isinstance(prompt, str):
        system = getattr(theirs, "system_prompt", None)
        prompt = ([{"role": "system", "content": system}] if system else []) + [
            {"role": "user", "content": prompt}
        ]
    if not prompt:
        raise UserError(f"{key}: the row has neither prompt nor question; it has {', '.join(row)}")
    extra = {column: row[column] for column in ("info", "task", "example_id") if row.get(column) is not None}
    return Task(key, tuple(prompt), row.get("answer", ""), extra)


def fresh_state(task: Task) -> dict[str, Any]:
    return {
        "prompt": list(task.messages),
        "completion": [],
        "answer": task.reference,
        "info": task.extra.get("info", {}),
        "task": task.extra.get("task", "default"),
        "example_id": task.extra.get("example_id", 0),
        "trajectory": [],
        "responses": [],
        "turn": 0,
        "timing": {"start_time": 0.0, "generation_ms": 0.0, "scoring_ms": 0.0, "total_ms": 0.0},
    }


class Conversation:
    """One episode of their environment, as a World."""

    def __init__(self, theirs: Any, task: Task):
        self.theirs, self.state = theirs, fresh_state(task)
        if hasattr(theirs, "setup_state"):
            self.state = waited(theirs.setup_state(self.state)) or self.state

    def say(self, text: str) -> Messages | None:
        state, said = self.state, as_theirs(text)
        before = [*state["prompt"], *state["completion"]]
        state["completion"] = [*state["completion"], said]
        state["trajectory"].append({"prompt": before, "completion": [said], "reward": None, "extras": {}})
        state["turn"] += 1
        if self.completed():
            return None
        answer = waited(self.theirs.env_response([*before, said], state))
        if isinstance(answer, tuple):  # (messages, state), in older releases
            answer, self.state = answer
        self.state["completion"] = [*self.state["completion"], *answer]
        return None if self.state.get("final_env_response") is not None else list(answer)

    def completed(self) -> bool:
        check = (
            self.theirs.is_completed
        )  # is_completed(state), and is_completed(messages, state) in older releases
        one = len([p for p in inspect.signature(check).parameters.values() if p.kind != p.VAR_KEYWORD]) == 1
        messages = [*self.state["prompt"], *self.state["completion"]]
        return bool(waited(check(self.state) if one else check(messages, self.state)))

    def close(self) -> None:
        pass


def as_theirs(text: str) -> dict[str, Any]:
    """A turn as their environments read it: calls beside the text, in OpenAI's form."""
    turn = parse(text)
    calls = [
        {
            "id": f"call_{i}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
        }
        for i, call in enumerate(turn.calls)
        if isinstance(call, Call)
    ]
    return {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}


@dataclass(frozen=True)
class RubricGrade:
    """The weighted sum of a rubric's functions. Trusted, for it must run in this process: here the states are."""

    functions: list[Part]
    worlds: Worlds | None
    trusted: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        task = task_of(attempt)
        try:
            state = (
                self.worlds.grade(task, attempt.messages, lambda w: w.state)
                if self.worlds
                else fresh_state(task)
            )
        except NotRepeatable as error:
            return Failure("invalid", str(error))
        completion = spoken(state) or list(attempt.messages)
        given = {key: state[key] for key in ("prompt", "answer", "task", "info")}
        given |= {"completion": completion, "state": {**state, "completion": completion}}
        total, parts = 0.0, {}
        for function, weight, objects in self.functions:
            parameters = inspect.signature(function).parameters
            takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
            handed = {k: v for k, v in (given | dict(objects)).items() if takes_all or k in parameters}
            try:  # the user's code
                value = float(waited(function(**handed)))
            except Exception as error:
                return Failure("exception", f"{function.__name__}: {type(error).__name__}: {error}")
            if not math.isfinite(value):
                return Failure("invalid", f"{function.__name__} gave {value}")
            parts[function.__name__] = value
            total += weight * value
        return Score(total, parts)


def spoken(state: Mapping[str, Any]) -> list[Any]:
    """What followed the prompt as their environment saw it, calls and all, to the model's last turn."""
    completion = list(state["completion"])
    while completion and completion[-1]["role"] != "assistant" and state.get("final_env_response") is None:
        completion.pop()  # said to a model that had no turn left
    return completion


def waited(result: Any) -> Any:
    """The result of a function that may be a coroutine, also where a loop is running already."""
    if not inspect.isawaitable(result):
        return result
    answers: list[Any] = []

    async def finish() -> Any:
        return await result

    def run() -> None:
        try:
            answers.append((asyncio.run(finish()), None))
        except BaseException as error:  # carried over to the caller's thread
            answers.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    value, error = answers[0]
    if error is not None:
        raise error
    return value
