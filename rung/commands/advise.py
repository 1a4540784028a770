"""`rung advise`: from the signal there is to a method, its command lines, and what they take on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rung.endpoint import is_url
from rung.errors import UserError

if TYPE_CHECKING:
    from rung.commands.advise_plan import Step
    from rung.pipelines.advice import Advice, Row

Failure = Literal[
    "over-optimisation", "forgetting", "displacement", "entropy-collapse", "mode-collapse", "sampling", "none"
]


@dataclass(frozen=True)
class Advise:
    """Which method for which signal: name what there is, one or several; files need not be there yet.

    Answers with the method, its failure and what shows it, its ceiling, command lines, and memory and time of each
    before any weight is loaded; then with what else learns from the same. In a terminal, without a signal, it asks.
    """

    demonstrations: str = ""
    """There are prompts with good answers: a file of rows."""
    pairs: str = ""
    """There are two answers to a prompt, one preferred: a file of rows with chosen and rejected."""
    thumbs: str = ""
    """There are answers with a thumb up or down: a file of rows with completion and label."""
    verifier: str = ""
    """A program checks answers: an environment, as --env takes it, such as gsm8k:PATH or FILE.py:function."""
    reward: str = ""
    """There is a reward model: a folder that `rung reward` has written."""
    judge: str = ""
    """A model says which answer is better: the http address of a server, or a model."""
    teacher: str = ""
    """A stronger model: a name, a folder, or the http address of a server that gives log-probs."""
    afford: tuple[Failure, ...] = ()
    """Failures that can be afforded; empty is any of them."""
    prompts: str = "prompts.jsonl"
    """Where a method asks the model: rows with prompt and answer, the answer empty where a model grades."""
    constitution: str = "constitution.yaml"
    """Where a judge goes by principles: a YAML list of them."""
    model: str = "smollm2-135m"
    """What is trained: a known name, a Hugging Face id, a local folder, a run folder or a .gguf file."""
    out: str = "runs"
    """The folder for the runs of the command lines."""
    memory: float = 0.0
    """GB of the machine that will do it; 0 is this one's."""
    teraflops: float = 0.0
    """Its matrix peak; 0 measures this machine's, which takes a second."""
    json: bool = False
    """Print one JSON object instead."""


def main(settings: Advise) -> int:
    from rung.pipelines.advice import SIGNALS, decide

    places = {name: getattr(settings, name) for name in SIGNALS if getattr(settings, name)}
    afford: tuple[str, ...] = settings.afford
    if not places and not afford and sys.stdin.isatty():
        places, afford = ask(input)
    check(settings, places)
    if "reward" in places:
        places["reward"] = places["reward"].removeprefix("rm:")  # as other commands take it
    advice = decide(places, afford, served=is_url(places.get("teacher", "")))
    from rung.commands.advise_plan import JUDGE_FILE, machine_of, steps_of

    machine = machine_of(settings.memory, settings.teraflops)
    steps = steps_of(advice.chosen, settings, places, machine)
    other = steps_of(advice.alternative, settings, places, machine) if advice.alternative else []
    further = [(row, steps_of(row, settings, places, machine)) for row in advice.further]
    report = as_object(advice, steps, other, further, machine.memory)
    every = [*steps, *other, *(step for _, some in further for step in some)]
    judged = [step.words[1] for step in every if JUDGE_FILE in step.words]
    report["files"] = {JUDGE_FILE: f"judge: {places['judge']}"} if judged else {}
    if "online-dpo" in judged:  # which asks for duels, in both orders, and not for ratings
        report["files"][JUDGE_FILE] += "\nby: critique"
    print(json.dumps(report, indent=2) if settings.json else "\n".join(shown(report)))
    return 0


def check(settings: Advise, places: dict[str, str]) -> None:
    for name in ("memory", "teraflops"):
        if not 0 <= getattr(settings, name) < float("inf"):
            raise UserError(
                f"--{name} is {getattr(settings, name)}; write a positive number, or 0 for this machine"
            )
    if places.get("judge", "").endswith((".yaml", ".yml")):
        raise UserError(
            f"--judge {places['judge']} is a judge file. Write who judges: an http address or a model; the answer says "
            "what a judge file should hold."
        )
    if places.get("reward", "").endswith((".yaml", ".yml")) or ".py:" in places.get("reward", ""):
        raise UserError(
            f"--reward {places['reward']} is no folder of a reward model. A function that checks answers is a --verifier; "
            "a judge file stands for a --judge, who is named by an http address or a model."
        )
    if places.get("teacher") == settings.model:
        raise UserError(
            f"--teacher and --model are both {settings.model}, and a model's distance from itself is 0. Name a stronger "
            "teacher, or look at rung rft and rung ssd, which learn from a model's own answers."
        )


def ask(read: Callable[[str], str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The same by questions: an empty answer is no."""
    from rung.pipelines.advice import FAILURES, SIGNALS

    print("What is there? Where it is (a name will do if it is not there yet), or empty for no.")
    found = {name: read(f"  {name}, {meaning}: ").strip() for name, meaning in SIGNALS.items()}
    places = {name: place for name, place in found.items() if place}
    if not places:
        return {}, ()
    print("Which failures cannot be afforded? y, or empty for no.")
    barred = [name for name, one in FAILURES.items() if yes(read(f"  {name}, {one.meaning}: "))]
    return places, tuple(name for name in FAILURES if name not in barred) or ("none",)


def yes(answer: str) -> bool:
    return answer.strip().lower() in ("y", "yes")


def as_object(
    advice: Advice, steps: list[Step], other: list[Step], further: list[tuple[Row, list[Step]]], memory: float
) -> dict[str, Any]:
    from rung.pipelines.advice import OTHERWISE

    alternative = advice.alternative and {
        **described(advice.alternative, other, memory),
        "risks_not_afforded": sorted(advice.extra_risks),
    }
    return {
        **described(advice.chosen, steps, memory),
        "unused": {name: OTHERWISE[name] for name in advice.unused},
        "alternative": alternative,
        "further": [described(row, some, memory) for row, some in further],
        "memory_here_gb": round(memory, 1),
    }


def described(row: Row, steps: list[Step], memory: float) -> dict[str, Any]:
    from rung.pipelines.advice import CEILINGS, FAILURES

    return {
        "method": row.method,
        "learns_from": sorted(row.needs),
        "why": row.why,
        "failures": {name: vars(FAILURES[name]) for name in sorted(row.risks)},
        "ceiling": CEILINGS[row.ceiling],
        "steps": [step.as_object() for step in steps],
        "fits": all(step.memory <= memory for step in steps),
    }


def shown(report: dict[str, Any]) -> list[str]:
    from rung.commands.advise_plan import plan_lines

    lines = [f"method   {report['method']}: {report['why']}"]
    for name, failure in report["failures"].items():
        lines += [
            f"fails    {name}: {failure['meaning']}",
            f"         shown by {' or '.join(failure['shown'])}: {failure['how']}",
        ]
    if not report["failures"]:
        lines.append("fails    by learning too little; compare held-out losses with those of the alternative")
    lines += [f"ceiling  {report['ceiling']}", "", *plan_lines(report)]
    lines += [f"unused   {name}: {use}" for name, use in report["unused"].items()]
    files = [holding(*each) for each in report["files"].items()]
    other = report["alternative"]
    if other is None:
        return [*lines, "instead  nothing else learns from this alone", *files]
    risks = ", ".join(other["failures"]) or "learning too little"
    lines += [
        "",
        f"instead  {other['method']}: {other['why']}",
        f"         risks {risks}; ceiling: {other['ceiling']}",
    ]
    if other["risks_not_afforded"]:
        lines.append(f"         which --afford leaves out: {', '.join(other['risks_not_afforded'])}")
    lines += [f"           {step['command']}" for step in other["steps"]]
    for row in report["further"]:
        lines += ["", f"further  {row['method']}: {row['why']}"]
        lines += [f"           {step['command']}" for step in row["steps"]]
    return [*lines, *files]


def holding(name: str, text: str) -> str:
    label = f"{name} holds   "
    return "\n" + label + text.replace("\n", "\n" + " " * len(label))
