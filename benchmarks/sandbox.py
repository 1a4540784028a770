"""What the sandbox adds to a small Python test: a warm pool against the bare interpreter, milliseconds a program.

    rung bench sandbox [--json] [--quick]

Each program reads a line and prints it; its one test compares what it printed. Bare is the same interpreter started
on the same file without walls or limits. The two take turns; one program at a time; medians count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import report
from rung.memory import peak_memory
from rung.sandbox.pool import Pool
from rung.sandbox.program import Case, Program
from rung.sandbox.result import Passed

CODE = "print(input())\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rung bench sandbox", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--quick", action="store_true", help="fewer programs")
    options = parser.parse_args(arguments)
    boxed, bare = measure(20 if options.quick else 200)
    print(f"in the sandbox  {statistics.median(boxed) * 1e3:6.1f} ms a program")
    print(f"bare            {statistics.median(bare) * 1e3:6.1f} ms a program")
    print(f"overhead        {(statistics.median(boxed) - statistics.median(bare)) * 1e3:6.1f} ms")
    if options.json:
        gigabytes = peak_memory("cpu")
        ours, theirs = (
            {
                "seconds": statistics.median(x),
                "programs_per_second": 1 / statistics.median(x),
                "peak_memory": gigabytes,
            }
            for x in (boxed, bare)
        )
        runs = {"rung": [{"seconds": s} for s in boxed], "bare": [{"seconds": s} for s in bare]}
        one = report(
            "sandbox", "a one-line Python program and its test", ours, {"bare": theirs}, peer="bare",
            rate="programs_per_second", runs=runs,
        )  # fmt: skip
        print(json.dumps(one))
    return 0


def measure(programs: int) -> tuple[list[float], list[float]]:
    boxed, bare = [], []
    with Pool(1) as pool, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "main.py"
        file.write_text(CODE)
        program = Program("python", CODE, tests=(Case("42\n", "42\n"),))
        for turn in range(programs + 3):
            began = time.perf_counter()
            result = pool.submit(program).result()
            middle = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-I", str(file)], input="42\n", capture_output=True, text=True, check=True
            )
            ended = time.perf_counter()
            assert isinstance(result, Passed) and done.stdout == "42\n", result
            if turn >= 3:  # the pool is warm by then
                boxed.append(middle - began)
                bare.append(ended - middle)
    return boxed, bare


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
