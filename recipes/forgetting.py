"""What does learning something new cost, and what helps? Five ways to train and a merge, on the same rows and steps.

The new task is to spell words backwards. What should stay is English: docstrings of Python's standard library, which
stand for pre-training data. Each remedy is measured on held-out rows of both, in bits per byte.

    plain      all weights, nothing else
    replay     a share of the documents are old ones
    L2         every weight is pulled to its start
    EWC        each weight is pulled as firmly as old text depends on it (Fisher information)
    LoRA       low-rank corrections of frozen weights
    WiSE-FT    the plain result averaged with the start, three places

    python recipes/forgetting.py [OUT] [--model smollm2-135m] [--steps 30]
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import shutil
import sysconfig
import time
from pathlib import Path

from rung.machine import share_cores

share_cores()  # before torch is imported

from rich.console import Console

from rung.eval.forgetting import pareto_front
from rung.eval.intervals import Estimate
from rung.eval.report import aligned, load_pyplot
from rung.pipelines.evaluate_text import read_documents
from rung.pipelines.merge import merge, plan
from rung.pipelines.merge_measure import scored
from rung.pipelines.merge_methods import method_named
from rung.pipelines.sft import sft
from rung.settings import Anchor, Lora, Optimizer, Sft

DOCUMENTS = 16  # of a step
OLD_SHARE = 0.3  # of the documents, in replay
LONGEST = 160  # tokens of a document
MODULES: tuple[str, ...] = (
    "argparse",
    "ast",
    "calendar",
    "cmd",
    "decimal",
    "difflib",
    "doctest",
    "email/message",
    "fractions",
)
MODULES += ("heapq", "inspect", "ipaddress", "logging/__init__", "pathlib", "random", "shutil", "statistics")
MODULES += ("string", "subprocess", "tempfile", "textwrap", "threading", "turtle", "unittest/case", "zipfile")

console = Console(highlight=False)
Found = dict[str, tuple[Estimate, Estimate]]  # name -> old text, new task; bits per byte


def docstrings() -> list[str]:
    """English of 200 to 600 characters, the same on every machine with this Python."""
    library, found = Path(sysconfig.get_paths()["stdlib"]), []
    for module in MODULES:
        file = library / f"{module}.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if file.is_file() else ():
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                text = " ".join((ast.get_docstring(node) or "").split())
                if len(text) >= 200:
                    found.append(text[:600])
    return list(dict.fromkeys(found))


def write_rows(folder: Path) -> None:
    """old.jsonl and new.jsonl to train on, and held-out rows of both that share no text and no word with them."""
    dice, texts = random.Random(0), docstrings()
    dice.shuffle(texts)
    words = sorted({word for text in texts for word in re.findall(r"\b[a-z]{4,8}\b", text)})
    dice.shuffle(words)
    new = [{"prompt": f"Spell {word} backwards.", "completion": word[::-1]} for word in words]
    old = [{"text": text} for text in texts]
    parts = {"old": old[40:], "old-heldout": old[:40], "new": new[200:], "new-heldout": new[:200]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )


def remedies(rows: Path, model: str, steps: int, rate: float, l2: float, ewc: float) -> dict[str, Sft]:
    new, old = str(rows / "new.jsonl"), str(rows / "old.jsonl")

    def train(*data: str, rate: float = rate, lora: int = 0, l2: float = 0, ewc: float = 0) -> Sft:
        anchor = Anchor(l2=l2, ewc=ewc, data=(old,) if ewc else (), documents=48)
        return Sft(
            data=data or (new,), model=model, steps=steps, step_documents=DOCUMENTS, max_length=LONGEST,
            overlong="truncate", micro_tokens=2048, optimizer=Optimizer(learning_rate=rate), anchor=anchor,
            lora=Lora(rank=lora),
        )  # fmt: skip

    return {
        "plain": train(),
        "replay": train(f"{new}:{1 - OLD_SHARE}", f"{old}:{OLD_SHARE}"),
        "L2": train(l2=l2),
        "EWC": train(ewc=ewc),
        "LoRA": train(lora=16, rate=10 * rate),
    }


def measured(model: str | Path, rows: Path) -> tuple[Estimate, Estimate]:
    old, new = (read_documents(str(rows / f"{name}-heldout.jsonl")) for name in ("old", "new"))
    return scored(model, old).per_byte(), scored(model, new).per_byte()


def interpolated(
    start: str, tuned: Path, alpha: float, rows: Path, folder: Path
) -> tuple[Estimate, Estimate]:
    shutil.rmtree(folder, ignore_errors=True)
    both = [start, str(tuned)]
    merge(
        plan(both, ""), method_named("wise-ft", both, "", {"alpha": alpha}), folder, lineage={"alpha": alpha}
    )
    found = measured(folder, rows)
    shutil.rmtree(folder)
    return found


def best(found: Found) -> list[str]:
    return pareto_front({name: (-old.value, -new.value) for name, (old, new) in found.items()})


def table(found: Found) -> str:
    start, front = found["start"], best(found)
    lines = [["", "old text", "95 % interval", "forgotten", "new task", "95 % interval", "gained", "Pareto"]]
    for name, (old, new) in found.items():
        line = [
            name,
            f"{old.value:.3f}",
            f"{old.low:.3f} to {old.high:.3f}",
            f"{old.value - start[0].value:+.3f}",
        ]
        line += [f"{new.value:.3f}", f"{new.low:.3f} to {new.high:.3f}", f"{start[1].value - new.value:+.3f}"]
        lines.append([*line, "*" if name in front else ""])
    return aligned(lines)


def draw(found: Found, path: Path) -> None:
    pyplot, front = load_pyplot(), best(found)
    figure, axis = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    line = [found[name] for name in found if name == "start" or name.startswith("WiSE")] + [found["plain"]]
    axis.plot([p[0].value for p in line], [p[1].value for p in line], color="#bbbbbb", linewidth=1, zorder=1)
    for name, (old, new) in found.items():
        colour = "#2a6fbb" if name in front else "#ffffff"
        axis.scatter(old.value, new.value, s=42, color=colour, edgecolors="#2a6fbb", zorder=3)
    width, height = (
        max(v) - min(v) for v in zip(*((o.value, n.value) for o, n in found.values()), strict=True)
    )
    placed: list[tuple[float, float]] = []
    for name, (old, new) in sorted(found.items(), key=lambda one: one[1][0].value):
        x, y = old.value, new.value
        near = [p for p in placed if abs(p[0] - x) < width / 6 and abs(p[1] - y) < height / 20]
        offset = (6, -11) if len(near) % 2 else (6, 4)  # neighbours have their labels above and below in turn
        axis.annotate(name, (x, y), xytext=offset, textcoords="offset points", fontsize=8)
        placed.append((x, y))
    axis.set(
        xlabel="old text, bits per byte (left: nothing forgotten)",
        ylabel="new task, bits per byte (down: learned)",
    )
    axis.set_title("lower left is better; filled: no other beats it in both", loc="left", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", default=f"runs/forgetting-{time.strftime('%Y%m%d-%H%M%S')}")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--l2", type=float, default=10.0)
    parser.add_argument("--ewc", type=float, default=10_000.0)
    options = parser.parse_args()
    out, began = Path(options.out), time.perf_counter()
    rows = out / "rows"
    write_rows(rows)
    found: Found = {"start": measured(options.model, rows)}
    for name, settings in remedies(
        rows, options.model, options.steps, options.rate, options.l2, options.ewc
    ).items():
        run = sft(Sft(**{**vars(settings), "out": str(out / name)}))
        found[name] = measured(run, rows)
        console.print(f"{name}: {time.perf_counter() - began:.0f} s")
    for alpha in (0.25, 0.5, 0.75):
        found[f"WiSE-FT {alpha:g}"] = interpolated(options.model, out / "plain", alpha, rows, out / "merged")
    told = {name: [[e.value, e.low, e.high] for e in both] for name, both in found.items()}
    (out / "forgetting.json").write_text(json.dumps({**vars(options), "found": told}, indent=1) + "\n")
    draw(found, out / "forgetting.png")
    console.print("\n" + table(found), soft_wrap=True)
    console.print(f"plot   {out / 'forgetting.png'}\ndone in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
