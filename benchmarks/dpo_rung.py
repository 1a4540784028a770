"""`rung dpo` with a clock on its reference pass; started by dpo.py. Prints one JSON object last."""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path


def measured(words: list[str]) -> dict:
    from rung.cli import status
    from rung.pipelines import preference
    from rung.run import Run

    original, took = preference.with_reference, [0.0]

    def timed(*arguments, **more):
        began = time.perf_counter()
        found = original(*arguments, **more)
        took[0] += time.perf_counter() - began
        return found

    preference.with_reference = timed
    if status(words):
        sys.exit("rung dpo failed")
    run = Run.open(words[words.index("--out") + 1])
    logged = run.metrics()
    # From the end of one step to the end of the next: everything a user waits for, logging too.
    return {
        "seconds": [after["time"] - before["time"] for before, after in pairwise(logged)],
        "reference_seconds": took[0],
        "trained": [round(row["trained_tokens"]) for row in logged],
        "losses": [row["loss"] for row in logged],
        "cuda_memory": max(row["memory"] for row in logged) if run.config()["device"] != "cpu" else None,
        "versions": run.config()["versions"],
    }


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(Path(sys.argv[1]).read_text()))))
