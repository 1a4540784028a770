"""What a merged model is worth: perplexity beside its parents', a greedy soup's metric, the front over alpha."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.data.rows import Row, TextRow
from rung.errors import UserError
from rung.eval.forgetting import pareto_front
from rung.eval.intervals import Estimate
from rung.eval.report import aligned, load_pyplot
from rung.merge.soup import Soup, greedy_soup
from rung.pipelines.evaluate import evaluate
from rung.pipelines.evaluate_text import Reader, TextScore, read_documents, score_text
from rung.pipelines.merge import merge, plan, write_merge
from rung.pipelines.merge_methods import mean, method_named
from rung.publish import publish
from rung.run import write_atomically

TEXTS = (
    "The sun had set behind the hills when the last train left the station. Anna watched its lights grow smaller "
    "and thought of the letter in her pocket, which she had read so often that she knew it by heart.",
    "Water boils at a lower temperature on a mountain than at the sea, because the pressure of the air is lower "
    "there. Cooking an egg therefore takes longer, although the water bubbles just as much.",
    "def average(numbers):\n    total = 0\n    for number in numbers:\n        total += number\n"
    "    return total / len(numbers)\n",
    "Question: A shop sells pens at 3 euros and notebooks at 5 euros. What do 4 pens and 2 notebooks cost?\n"
    "Answer: The pens cost 4 * 3 = 12 euros and the notebooks 2 * 5 = 10 euros, together 22 euros.",
)


def documents(file: str, most: int | None = None) -> list[Row]:
    """Rows of a file, or a few short texts to see whether a model still reads at all."""
    return (
        read_documents(file, most)
        if file
        else [TextRow(text, f"text {i}") for i, text in enumerate(TEXTS, 1)]
    )


def scored(model: str | Path, rows: Sequence[Row]) -> TextScore:
    return score_text(Reader.open(str(model)), rows)


# ---- a merged folder beside its parents ----


def compare_perplexity(folder: Path, parents: Sequence[str], file: str) -> str:
    """A table of the merged model and its parents; a model that reads nothing any more is refused."""
    rows = documents(file)
    found = {"merged": scored(folder, rows), **{name: scored(name, rows) for name in dict.fromkeys(parents)}}
    merged = found["merged"].per_byte()
    if not merged.value < float("inf"):
        raise UserError(
            f"the merged model gives text a perplexity of {found['merged'].perplexity().value}; it was not written. Use "
            "smaller weights or a smaller scale"
        )
    table = [["", "bits per byte", "95 % interval", "perplexity"]]
    for name, each in found.items():
        bits = each.per_byte()
        table.append(
            [
                name,
                f"{bits.value:.4f}",
                f"{bits.low:.4f} to {bits.high:.4f}",
                f"{each.perplexity().value:.3f}",
            ]
        )
    worst = max(each.per_byte().value for name, each in found.items() if name != "merged")
    word = "" if merged.value <= 1.1 * worst else (
        "\nwarning: the merged model reads these texts more than a tenth worse than the worst of its parents"
    )  # fmt: skip
    return aligned(table) + word


# ---- the greedy soup ----


def brew(
    models: Sequence[str], out: Path, measure: Callable[[Path], float], lineage: Mapping[str, Any]
) -> Soup:
    """Publish the greedy soup of the models; `measure(folder)` is larger where a model is better."""
    whole = plan(models, "")
    with publish(out) as folder:

        def trial(members: Sequence[int]) -> float:
            write_members(folder / "trial", members)
            found = measure(folder / "trial")
            shutil.rmtree(folder / "trial")
            return found

        def write_members(where: Path, members: Sequence[int]) -> None:
            where.mkdir(exist_ok=True)
            chosen = [models[i] for i in members]
            write_merge(plan(chosen, ""), mean(len(chosen)), where)

        soup = greedy_soup(len(whole.parents), trial)
        write_members(folder, soup.members)
        told = {"members": [models[i] for i in soup.members], "metric": soup.metric}
        told["alone"] = dict(zip(models, soup.alone, strict=True))
        (folder / "lineage.json").write_text(json.dumps({**lineage, **told}, indent=2) + "\n")
    return soup


# ---- the front over alpha ----


@dataclass(frozen=True)
class Point:
    alpha: float
    kept: Estimate  # bits per byte of text that should not be forgotten; lower is better
    gained: Estimate  # accuracy (higher is better) or bits per byte (lower is better) on the new task
    best: bool = False  # no other point is as good in both and better in one


def sweep(
    start: str,
    tuned: str,
    out: Path,
    *,
    alphas: Sequence[float],
    method: str,
    text: str,
    task: str = "",
    env: str = "",
    tasks: int = 100,
    samples: int = 1,
    max_tokens: int = 256,
    most: int | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> list[Point]:
    """Measure the models between start and tuned, write sweep.json and sweep.png, return the points.

    Merged models are removed once measured. Answers to tasks stay in `out`, so the same call goes on where it stopped.
    """
    both = plan([start, tuned], "")
    rows, task_rows = documents(text, most), documents(task, most) if task else []
    out.mkdir(parents=True, exist_ok=True)
    points: list[Point] = []
    for alpha in alphas:
        place = out / f"alpha-{alpha:g}"
        folder = place / "model"
        shutil.rmtree(folder, ignore_errors=True)
        mix = method_named(method, [start, tuned], "", {"alpha": alpha})
        merge(both, mix, folder, seed=seed, lineage={"method": method, "alpha": alpha})
        kept = scored(folder, rows).per_byte()
        gained = scored(folder, task_rows).per_byte() if task else accuracy(
            folder, env, place / "answers", tasks=tasks, samples=samples, max_tokens=max_tokens, seed=seed
        )  # fmt: skip
        shutil.rmtree(folder)
        points.append(Point(alpha, kept, gained))
        tell(f"alpha {alpha:<5g} kept {kept.value:.4f} bits per byte, gained {gained.value:.4g}")
    points = on_front(points, lower_gain=bool(task))
    name = f"bits per byte of {Path(task).name}" if task else f"accuracy on {env}"
    write_sweep(points, out, name, {"start": start, "tuned": tuned, "method": method, "text": text})
    return points


def accuracy(folder: Path, env: str, out: Path, **options: Any) -> Estimate:
    found = evaluate(folder, env, out=out, **options).tally.accuracy
    if found is None:
        raise UserError(f"no answer of {folder} to {env} could be scored, so it has no accuracy")
    return found


def on_front(points: Sequence[Point], lower_gain: bool) -> list[Point]:
    sign = -1 if lower_gain else 1
    values = {str(i): (-point.kept.value, sign * point.gained.value) for i, point in enumerate(points)}
    front = set(pareto_front(values))
    return [Point(p.alpha, p.kept, p.gained, str(i) in front) for i, p in enumerate(points)]


def write_sweep(points: Sequence[Point], out: Path, gain: str, told: Mapping[str, Any]) -> None:
    rows = [
        {"alpha": p.alpha, "kept": list_of(p.kept), "gained": list_of(p.gained), "pareto": p.best}
        for p in points
    ]
    write_atomically(
        out / "sweep.json", (json.dumps({**told, "gain": gain, "points": rows}, indent=1) + "\n").encode()
    )
    draw_sweep(points, out / "sweep.png", gain)


def list_of(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


def sweep_table(points: Sequence[Point], gain: str) -> str:
    table = [["alpha", "kept, bits per byte", "95 % interval", gain, "95 % interval", "Pareto"]]
    for p in points:
        row = [f"{p.alpha:g}"]
        for each in (p.kept, p.gained):
            row += [f"{each.value:.4f}", f"{each.low:.4f} to {each.high:.4f}"]
        table.append([*row, "*" if p.best else ""])
    return aligned(table)


def draw_sweep(points: Sequence[Point], path: Path, gain: str) -> None:
    pyplot = load_pyplot()
    figure, axis = pyplot.subplots(figsize=(5.6, 4.0), layout="constrained")
    kept, gained = [p.kept.value for p in points], [p.gained.value for p in points]
    axis.plot(kept, gained, color="#bbbbbb", linewidth=1, zorder=1)
    for p in points:
        colour = "#2a6fbb" if p.best else "#ffffff"
        axis.scatter(p.kept.value, p.gained.value, s=42, color=colour, edgecolors="#2a6fbb", zorder=3)
        axis.annotate(
            f"{p.alpha:g}",
            (p.kept.value, p.gained.value),
            xytext=(6, 5),
            textcoords="offset points",
            fontsize=8,
        )
        axis.vlines(p.kept.value, p.gained.low, p.gained.high, color="#2a6fbb", alpha=0.3, linewidth=1)
    axis.set(xlabel="text that should stay: bits per byte (lower is better)", ylabel=gain)
    axis.set_title(
        "from the start (0) to the tuned model (1); filled: Pareto-optimal", loc="left", fontsize=9
    )
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
