"""What the tests of `rung rl` share: its command line on the tiny model, and what a run left behind."""

import json
import math
from pathlib import Path

from rung.cli import status
from rung.metrics import METRICS
from rung.rollouts.store import RolloutStore

ENV = Path(__file__).with_name("tiny_env.py")


def words(folder, out, kind="even", **options) -> list[str]:
    """`rung rl ...`; an option `loss__beta=1` is written --loss.beta 1."""
    fixed = {
        "env": f"{ENV}:make?kind={kind}", "model": folder, "out": out, "rounds": 3, "prompts": 3, "group": 4,
        "max_tokens": 8, "precision": "fp32", "test_tasks": 4, "micro_tokens": 200, "slots": 8, "keep": 0,
        "optimizer__learning_rate": 1e-3,
    }  # fmt: skip
    found = ["rl"]
    for name, value in (fixed | options).items():
        flag = name.replace("__", ".").replace("_", "-")
        if isinstance(value, bool):
            found.append(
                f"--{flag}"
                if value
                else "--" + ".".join([*flag.split(".")[:-1], "no-" + flag.split(".")[-1]])
            )
        elif value is not None:
            found += [f"--{flag}", str(value)]
    return found


def play(folder, out, kind="even", code=0, **options) -> Path:
    assert status(words(folder, out, kind, **options)) == code
    return Path(out)


def steps(run: Path) -> list[dict]:
    """Metrics that do not depend on the clock; NaN as text, so that equal is equal."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: plain(v) for k, v in row.items() if k not in METRICS or not METRICS[k].machine} for row in rows
    ]


def plain(value):
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def files(run: Path, *parts: str) -> dict[str, bytes]:
    """Every byte under the run's folders of these names."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for part in parts
        for path in sorted((run / part).rglob("*"))
        if path.is_file()
    }


def weights(run: Path) -> dict[str, bytes]:
    last = (run / "LATEST").read_text().strip()
    return files(run, f"checkpoints/{last}")


def rounds(run: Path) -> list[list]:
    """The rollouts of every round, as they were graded."""
    store = RolloutStore(run)
    return [store.read(round) for round in store.rounds()]


def told(run: Path) -> dict:
    return json.loads((run / "status.json").read_text())
