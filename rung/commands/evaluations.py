"""`rung eval show|rescore|diff`: what result folders of `rung eval` hold, counted again, and where two part."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from rung.errors import UserError

if TYPE_CHECKING:
    from rung.eval.results import Result
    from rung.rewards.score import Attempt, Verdict

MOST = 10  # changed verdicts that are listed


@dataclass(frozen=True)
class EvalShow:
    """The tables of finished results again, or one sample whole."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Result folders, or a folder that holds some; several are compared task by task."""
    sample: str = ""
    """TASK/INDEX: the prompt as it was rendered, the answer, the verdict. TASK alone is its first."""


@dataclass(frozen=True)
class EvalRescore:
    """The numbers of a result anew: from the verdicts in it, or from judging every stored answer again."""

    folder: tyro.conf.Positional[Path]
    """A result folder."""
    reward: str = ""
    """Judge with FILE.py:function; without it, the stored verdicts are counted again and must give what was reported."""
    grader_seconds: float = 20.0
    """A reward that takes longer has failed, which is no score."""


@dataclass(frozen=True)
class EvalDiff:
    """The first thing in which two results differ, in the order in which causes act. Status 1 if they do."""

    first: tyro.conf.Positional[Path]
    """A result folder."""
    second: tyro.conf.Positional[Path]
    """Another."""


def show(settings: EvalShow) -> int:
    from rung.pipelines.evaluate import opened
    from rung.pipelines.evaluation_report import summary

    folders = [found for folder in settings.folders for found in results_in(folder)]
    if not folders:
        raise UserError(
            f"no result lies in {', '.join(map(str, settings.folders))}; name a folder of `rung eval`"
        )
    found = [opened(folder) for folder in folders]
    if settings.sample:
        for each in found:
            show_sample(each.result, settings.sample)
        return 0
    for each in found:
        header = each.result.header
        print(f"{each.name}  {each.path}\n  on {header.data['name']}, {described(header.sampling)}")
        print(f"  {described(header.engine)}\n  model {header.model['digest'] or 'unknown'}")
    print(f"\n{summary(found)}")
    return 0


def results_in(folder: Path) -> list[Path]:
    if (folder / "result.json").is_file() or not folder.is_dir():
        return [folder]  # what is not there is told by whoever opens it
    return sorted(
        file.parent for file in folder.glob("*/result.json") if not file.parent.name.endswith(".partial")
    )


def described(settings: Any) -> str:
    return ", ".join(
        f"{key} {value}" for key, value in settings.items() if value not in (None, "", (), False)
    )


def show_sample(result: Result, wanted: str) -> None:
    prompts = {prompt.task: prompt for prompt in result.prompts}
    task, slash, index = wanted.rpartition("/")
    if not (slash and index.isdigit() and task in prompts):
        task, index = wanted, "0"
    sample = next((s for s in result.samples if s.key == (task, int(index))), None)
    if sample is None:
        first = result.samples[0]
        raise UserError(
            f"there is no sample {wanted}; samples are called like {first.task}/{first.index}, with indices 0 to "
            f"{result.header.attempts - 1}"
        )
    prompt = prompts[task]
    field("model", str(result.header.model["name"]))
    field("sample", f"{sample.task}/{sample.index}")
    field("prompt", prompt.text or "\n".join(f"{m['role']}: {m['content']}" for m in prompt.messages))
    for message in sample.messages:
        field("answer" if message["role"] == "assistant" else message["role"], str(message["content"]))
    field("reference", str(prompt.reference))
    field("verdict", str(sample.verdict))
    field("finish", f"{sample.finish}, {sample.tokens} tokens")


def field(name: str, text: str) -> None:
    first, *rest = text.splitlines() or [""]
    print(f"{name:10} {first}")
    for line in rest:
        print(f"{'':10} {line}")


def rescore(settings: EvalRescore) -> int:
    from rung.eval.report import tally_table
    from rung.eval.results import read
    from rung.eval.results import rescore as recount
    from rung.eval.tally import tally
    from rung.rewards.user import load_reward
    from rung.rewards.workers import Graders

    stored = read(settings.folder)
    if not settings.reward:
        again = recount(settings.folder).tally
        print(tally_table({"counted again": again}))
        if plain(again.numbers()) == plain(stored.numbers):
            print("\nthe numbers are those that were reported")
            return 0
        print(
            f"\nthe numbers in {settings.folder / 'result.json'} are others: they were changed, or rung counts anew"
        )
        return 1
    with Graders(load_reward(settings.reward), wall_seconds=settings.grader_seconds) as graders:
        found = recount(settings.folder, InWorkers(graders))
    before = tally(stored.samples, stored.header.correct_at)
    print(tally_table({"as reported": before, Path(settings.reward).name: found.tally}))
    print(f"\n{len(found.changed)} of {len(stored.samples)} verdicts changed")
    for sample, verdict in found.changed[:MOST]:
        print(f"  {sample.task}/{sample.index}  {sample.verdict} -> {verdict}")
    if len(found.changed) > MOST:
        print(f"  and {len(found.changed) - MOST} more")
    return 0


def plain(numbers: Any) -> Any:
    """As they stand in a file."""
    return json.loads(json.dumps(numbers))


class InWorkers:
    """A reward whose calls go through workers that can be killed."""

    def __init__(self, graders: Any):
        self.graders = graders

    def __call__(self, attempt: Attempt) -> Verdict:
        return self.graders.grade([attempt])[0]

    def many(self, attempts: list[Attempt]) -> list[Verdict]:
        return self.graders.grade(attempts)


def diff(settings: EvalDiff) -> int:
    from rung.eval.difference import difference
    from rung.eval.results import read

    found = difference(read(settings.first), read(settings.second))
    print(found or "the same evaluation with the same outcome")
    return int(found is not None)
