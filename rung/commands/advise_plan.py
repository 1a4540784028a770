"""A row of advice as command lines that rung accepts, each with its memory and time, made to fit the machine."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rung.config import parse
from rung.endpoint import is_url
from rung.progress import duration

if TYPE_CHECKING:
    from rung.commands.advise import Advise
    from rung.models.config import DecoderConfig
    from rung.pipelines.advice import Row
    from rung.pipelines.plan import Plan, Rates

JUDGE_FILE = "judge.yaml"
ROOM = 0.9  # of the memory: the system and the file cache live there too
# What a training command is given, in turn, until its plan fits: the gradient stays, then adapters alone are trained.
SMALLER = (
    (),
    ("--micro-tokens", "512"),
    ("--micro-tokens", "512", "--recompute"),
    ("--micro-tokens", "512", "--recompute", "--lora.rank", "16"),
)


@dataclass(frozen=True)
class Machine:
    memory: float  # GB
    rates: Rates


@dataclass(frozen=True)
class Step:
    """One command line. `changed` is what was added to it so that it fits."""

    words: tuple[str, ...]
    plan: Plan
    changed: tuple[str, ...] = ()

    @property
    def memory(self) -> float:
        return self.plan.memory

    def as_object(self) -> dict[str, Any]:
        return {
            "command": shlex.join(self.words),
            "memory_gb": round(self.memory, 2) if self.plan.phases else None,
            "phases_gb": {
                name: {k: round(v, 3) for k, v in parts.items()} for name, parts in self.plan.phases.items()
            },
            "seconds": None if self.plan.seconds is None else round(self.plan.seconds),
            "remark": self.plan.remark,
            "changed_to_fit": shlex.join(self.changed),
        }


def machine_of(memory: float, teraflops: float) -> Machine:
    from rung.commands.pipeline_plan import measured_rates
    from rung.pipelines.plan import Rates

    return Machine(memory or memory_here(), Rates(teraflops * 1e12) if teraflops else measured_rates())


def memory_here() -> float:
    """GB of the first GPU where there is one, else of the machine."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / 1e9
    return psutil.virtual_memory().total / 1e9


def steps_of(row: Row, settings: Advise, places: Mapping[str, str], machine: Machine) -> list[Step]:
    """Every step from where the one before it ends; an adapter is folded in before the next step starts from it."""
    from rung.pipelines.advice import STEPS

    names = {
        **places,
        "prompts": settings.prompts,
        "constitution": settings.constitution,
        "out": settings.out,
    }
    names |= {"start": settings.model, "judge_file": JUDGE_FILE}
    teacher = places.get("teacher", "")
    configs = {name: config_of(name) for name in (settings.model, teacher) if name and not is_url(name)}
    steps: list[Step] = []
    for template in (STEPS[name] for name in row.steps):
        words = [word.format_map(names) for word in template.split()]
        words += asked_how(words)
        step = fitted(words, settings.model, teacher, configs, machine)
        steps.append(step)
        if words[0] not in ("rft", "rlaif", "cai", "reward"):
            names["start"] = words[words.index("--out") + 1]
            if "--lora.rank" in step.words and template is not STEPS[row.steps[-1]]:
                steps.append(folded(names["start"]))
                names["start"] += "-merged"
    return steps


def asked_how(words: Sequence[str]) -> list[str]:
    """A teacher in memory says its whole distribution; a server its likeliest tokens, kept before the training."""
    if words[0] == "distill-on-policy":
        return [] if is_url(read(words).teacher) else ["--method", "gkd"]
    return ["--top-k", "20"] if words[0] == "distill" and is_url(read(words).teacher) else []


def folded(folder: str) -> Step:
    from rung.pipelines.plan import Plan

    return Step(
        ("rung", "merge-adapter", folder, "--out", f"{folder}-merged"),
        Plan({}, remark="folds the adapter in"),
    )


def fitted(
    words: list[str], student: str, teacher: str, configs: Mapping[str, DecoderConfig], machine: Machine
) -> Step:
    """The command with the first of SMALLER with which it fits; with the last if none does."""
    ways = SMALLER if hasattr(read(words), "optimizer") else SMALLER[:1]
    for changed in ways[:-1] if "--lora.rank" in words else ways:
        more = [*changed, *(faster(words) if "--lora.rank" in changed else [])]
        step = Step(
            ("rung", *words, *more), planned([*words, *more], student, teacher, configs, machine), tuple(more)
        )
        if step.memory <= ROOM * machine.memory:
            break
    return step


def faster(words: list[str]) -> list[str]:
    """LoRA wants about ten times the rate of full weights."""
    return ["--optimizer.learning-rate", f"{10 * read(words).optimizer.learning_rate:.0e}"]


def planned(
    words: list[str], student: str, teacher: str, configs: Mapping[str, DecoderConfig], machine: Machine
) -> Plan:
    from rung.commands.pipeline_plan import rows_in
    from rung.pipelines.plan import plan

    settings = read(words)
    model = configs[teacher if getattr(settings, "model", "") == teacher and teacher else student]
    rows = rows_in(settings.data) if hasattr(settings, "data") else None
    return plan(words[0], settings, model, rates=machine.rates, rows=rows, teacher=configs.get(teacher))


def read(words: Sequence[str]) -> Any:
    """The command's own settings, so that a line which it would refuse is never advised."""
    from rung.commands.pipeline import settings_of

    return parse(settings_of(words[0]), words[1:], f"rung {words[0]}")


def config_of(name: str) -> DecoderConfig:
    """A model's shape; of one on the hub only config.json is fetched."""
    from rung.models.config import DecoderConfig
    from rung.models.folder import read_config
    from rung.models.hub import resolve_config

    return DecoderConfig.from_hf(read_config(resolve_config(name)))


def plan_lines(report: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for step in report["steps"]:
        lines.append(f"  {step['command']}")
        lines.append("      " + "; ".join(said(step)))
        if step["changed_to_fit"]:
            lines.append(f"      to fit, it has {step['changed_to_fit']}")
    here = report["memory_here_gb"]
    if not report["fits"]:
        lines += [
            "",
            f"warning: that is more than the {here:.1f} GB there are; take a smaller model, or a larger machine",
        ]
    return [*lines, ""]


def said(step: Mapping[str, Any]) -> list[str]:
    memory = "no memory to speak of" if step["memory_gb"] is None else f"{step['memory_gb']:.1f} GB"
    if step["seconds"] is None:
        return [memory, step["remark"]]
    bound = step["remark"].removeprefix("at most: ")  # a time with a remark is a bound
    length = duration(step["seconds"])
    return [memory, f"at most {length}, {bound}" if bound else f"about {length}"]
