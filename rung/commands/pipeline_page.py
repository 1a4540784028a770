"""One HTML page over a pipeline folder: its stages, what each was told, measured, drew, found and wrote.

Everything is read from the folder, so the page of a pipeline that was killed shows how far it came.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.errors import UserError
from rung.progress import duration
from rung.run import METRICS, Run

if TYPE_CHECKING:
    from rung.pipelines.evaluate import Evaluation
    from rung.studio.page import Page

CURVES = (
    "loss", "eval_loss", "reward", "heldout_score", "pair_accuracy", "eval_pair_accuracy", "margin",
    "response_length", "rollout_entropy", "kl", "dead_groups",
)  # fmt: skip
SHOWN = 6  # curves of a stage
EXAMPLES = 3

Record = Mapping[str, Any]


def write_page(root: Path, out: Path) -> Path:
    from rung.studio.page import Page

    manifest = read_manifest(root)
    records = list(stage_records(root, manifest))
    spent = sum(float(record.get("seconds", 0)) for record in records)
    done = sum(record["state"] == "finished" for record in records)
    page = Page(
        Path(manifest["recipe"]).stem,
        f"{manifest['about']}  {done} of {len(records)} stages done in {duration(spent)}.",
    )
    found = {
        record["name"]: list(evaluations(root, record)) for record in records if record["command"] == "eval"
    }
    accuracies(page, found)
    for record in records:
        own_table(page, root / record["output"])
    page.heading("Stages")
    page.table([["stage", "command", "state", "time", "peak memory", "builds on"], *map(stage_row, records)])
    for record in records:
        one_stage(page, root, record)
    page.heading("Again")
    page.command(manifest["command"])
    return page.write(out)


def read_manifest(root: Path) -> dict[str, Any]:
    file = root / "pipeline.json"
    if not file.is_file():
        raise UserError(
            f"{root} is no pipeline folder: it has no pipeline.json. `rung pipeline run` makes one."
        )
    return json.loads(file.read_text(encoding="utf-8"))


def stage_records(root: Path, manifest: Mapping[str, Any]) -> Iterator[Record]:
    """The record of each stage of the recipe as it was last run, also of those that have not begun."""
    for stage in manifest["stages"]:
        file = root / "pipeline" / f"{stage['name']}-{stage['key']}.json"
        record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"state": "not begun"}
        yield {
            "settings": {},
            **stage,
            "output": f"{stage['name']}-{stage['key']}",
            **record,
            "script": stage["command"],
        }


def stage_row(record: Record) -> list[str]:
    began = record["state"] not in ("not begun", "running")
    return [
        record["name"],
        Path(record["script"]).name,
        record["state"],
        duration(record["seconds"]) if began else "",
        f"{record['peak_memory']:.1f} GB" if began else "",
        ", ".join(record["needs"]),
    ]


# ---- accuracies ----


def evaluations(root: Path, record: Record) -> Iterator[tuple[str, Evaluation]]:
    """The finished results in an eval stage's folder, under the names of the stages whose models they are."""
    from rung.pipelines.evaluate import opened

    folder = root / record["output"]
    for file in sorted(folder.glob("*/result.json")) if record["state"] == "finished" else []:
        one = opened(file.parent)
        yield short_name(one.name, record), one


def short_name(model: str, record: Record) -> str:
    """The stage that made a model, where one did."""
    last = Path(model).name
    made = next((name for name, key in record.get("stages", {}).items() if f"{name}-{key}" in model), "")
    return made or last


def accuracies(page: Page, found: Mapping[str, Sequence[tuple[str, Evaluation]]]) -> None:
    rows = [["measured in", "model", "accuracy", "95 % interval", "right", "tasks", "answers cut off"]]
    cards = []
    for stage, results in found.items():
        for name, one in results:
            tally, known = one.tally, one.tally.accuracy
            share = f"{known.value:.1%}" if known else "-"
            interval = f"{known.low:.1%} to {known.high:.1%}" if known else "nothing was scored"
            right = f"{round(tally.worst * tally.attempts):,} of {tally.scored:,}"
            rows.append([stage, name, share, interval, right, f"{tally.tasks:,}",
                         f"{tally.truncated / tally.attempts:.0%}"])  # fmt: skip
            cards.append(
                (f"{name} ({stage})" if len(found) > 1 else name, share, f"95 % interval {interval}")
            )
    if len(rows) == 1:
        return
    page.heading("On held-out tasks")
    if len(cards) <= 6:
        page.numbers(cards)
    page.table(rows)
    for stage, results in found.items():
        for line in compared(results):
            page.text(f"{stage}: {line}", soft=True)


def compared(results: Sequence[tuple[str, Evaluation]]) -> Iterator[str]:
    """Each model against the one before it, task by task."""
    from rung.eval.report import comparison_line
    from rung.eval.tally import compare_samples

    for (a, one), (b, two) in pairwise(results):
        yield comparison_line(a, b, compare_samples(one.result.samples, two.result.samples))


def own_table(page: Page, folder: Path) -> None:
    """What a script of the recipe measured: table.json in its folder, with `title`, `rows` (head first), perhaps `notes`."""
    file = folder / "table.json"
    if file.is_file():
        table = json.loads(file.read_text(encoding="utf-8"))
        page.heading(str(table["title"]))
        page.table([[str(cell) for cell in row] for row in table["rows"]])
        for note in table.get("notes", ()):
            page.text(str(note), soft=True)


# ---- one stage ----


def one_stage(page: Page, root: Path, record: Record) -> None:
    page.heading(f"{record['name']}: {Path(record['script']).name}")
    given = told(record)
    if given:
        page.table([["setting", "value"], *given])
    folder = root / record["output"]
    if not (folder / "config.json").is_file():
        page.text(facts_of_file(folder), soft=True)
        return
    run = Run.open(folder)
    status = run.status()
    page.text(f"{status['state']}: {status.get('reason', '')}".rstrip(": "), soft=True)
    held_out(page, run)
    curves(page, run, record["name"])
    findings(page, folder)
    rollouts(page, folder)
    page.command(f"rung runs show {folder}\nrung diagnose {folder}")


def told(record: Record) -> list[list[str]]:
    """What the recipe says that the command's defaults do not."""
    from rung.commands import COMMANDS
    from rung.config import to_dict
    from rung.pipelines.stage_key import WITHOUT_EFFECT, flat
    from rung.schema import leaves

    defaults: dict[str, Any] = {}
    if record["command"] in COMMANDS:
        command = COMMANDS[record["command"]]
        kind = getattr(importlib.import_module(f"rung.commands.{command.module}"), command.settings)
        defaults = dict(flat(to_dict({key: leaf.default for key, leaf in leaves(kind).items()})))
    names = {f"<{key}.": f"<{name}." for name, key in record.get("stages", {}).items()}
    rows = []
    for key, value in record["settings"].items():
        if key in (*WITHOUT_EFFECT, "script") or (key in defaults and defaults[key] == value):
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for inside, name in names.items():
            text = text.replace(inside, name)
        rows.append([key, text if len(text) < 120 else text[:117] + "..."])
    return rows


def facts_of_file(output: Path) -> str:
    if output.is_file():
        lines = sum(1 for line in output.open("rb") if line.strip())
        return f"wrote {output.name}: {lines:,} lines, {output.stat().st_size / 1e6:.2f} MB"
    return f"wrote {output}" if output.exists() else "wrote nothing yet"


def held_out(page: Page, run: Run) -> None:
    """The last word of the stage on rows or tasks that it did not train on."""
    names = [name for name in METRICS if name.startswith(("eval_", "heldout_"))]
    last = {
        name: row[name] for row in run.metrics() for name in names if name in row and name != "eval_seconds"
    }
    if last:
        page.text("Held out: " + ", ".join(f"{name} {value:.4g}" for name, value in last.items()))


def curves(page: Page, run: Run, name: str) -> None:
    """The first few of the known curves that the stage has logged."""
    logged = {key for row in run.metrics() for key in row}
    wanted = [key for key in CURVES if key in logged][:SHOWN]
    if not wanted or not find_spec("matplotlib"):
        return
    from rung.commands.plots import plot_runs

    with tempfile.TemporaryDirectory() as temporary:
        picture = Path(temporary, "curves.png")
        plot_runs({name: run}, wanted, picture)
        page.picture(picture, f"{', '.join(wanted)} of {name} by step")


def findings(page: Page, folder: Path) -> None:
    from rung.diagnose.report import diagnose

    report = diagnose(folder)
    for finding in report.findings:
        page.text(f"{finding.severity}: {finding.name}, {finding.unit} {finding.round}. {finding.evidence} Remedy: "
                  f"{finding.remedy.replace('RUN', str(folder))}")  # fmt: skip
    looked = [look.name for look in report.looks if look.saw]
    if not report.findings and looked:
        page.text(f"Nothing wrong was found; looked at: {', '.join(looked)}.", soft=True)


def writer(run: Run) -> str:
    """A model with the tokenizer of the rollouts: a run that only samples, as `rung rft` does, keeps none itself."""
    return str(run.path) if run.latest() else str(run.config()["settings"]["model"])


def rollouts(page: Page, folder: Path) -> None:
    """Of the last round: the best paid, the worst paid, and the least certain of its words."""
    from rung.data.tokens import token_texts
    from rung.models.hub import load_tokenizer
    from rung.rewards.score import Score
    from rung.rollouts.store import RolloutStore

    store = RolloutStore(folder)
    if not store.rounds():
        return
    records = store.read(store.rounds()[-1])

    def paid(record: Any) -> tuple[float, float]:
        value = record.verdict.value if isinstance(record.verdict, Score) else -float("inf")
        return value, float(record.advantage.max(initial=0.0))

    by_pay = sorted(range(len(records)), key=lambda i: paid(records[i]))
    unsure = sorted(
        range(len(records)),
        key=lambda i: -float(records[i].rollout.entropy[records[i].rollout.by_model].mean()),
    )
    chosen: dict[int, str] = {}
    for why, order in (
        ("the best paid", by_pay[::-1]),
        ("the worst paid", by_pay),
        ("the least certain", unsure),
    ):
        place = next((i for i in order if i not in chosen), None)
        if place is not None:
            chosen[place] = why
    page.text(f"{len(chosen)} rollouts of round {store.rounds()[-1]}; the darker a token, the less likely it was to the "
              "model that wrote it.", soft=True)  # fmt: skip
    tokenizer = load_tokenizer(writer(Run.open(folder)))
    for place, why in list(chosen.items())[:EXAMPLES]:
        rollout, verdict = records[place].rollout, records[place].verdict
        page.rollout(
            asked=tokenizer.decode(rollout.prompt_ids.tolist(), skip_special_tokens=True).strip(),
            tokens=token_texts(tokenizer, rollout.token_ids.tolist()),
            logprobs=rollout.policy_logprob.tolist(),
            facts=[
                ("", why),
                ("reward", f"{verdict.value:g}" if isinstance(verdict, Score) else str(verdict)),
            ],
        )
