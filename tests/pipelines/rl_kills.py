"""Runs of training commands that are killed and resumed, each in a child forked from one process that has loaded all.

    python rl_kills.py JOBS.json

A job is {"words": [...], "out": ..., "kill": [module, function, call]}: the run dies of SIGKILL, as from kill -9,
when `function` is entered for the `call`-th time; another child resumes it. Printed: [how the first ended, how the
second, what the second said] of each.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

import pyarrow
import torch
import torch._dynamo  # as is the tokenizer below: loaded once, not by every child

import rung.pipelines.observe
import rung.pipelines.rl
from rung.cli import status
from rung.models.hub import load_tokenizer

torch.set_num_threads(1)
pyarrow.array([[0.0]])  # imports pandas where that is installed
rung.pipelines.observe.matrix_peak = lambda *_: 1e12  # to measure it takes longer than all the rest


def in_child(act, log: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with log.open("w") as file:
                os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
                code = act()
                sys.stderr.flush(), sys.stdout.flush()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying(module: str, name: str, call: int) -> None:
    """Replace a function, `Class.function` or `function` of a module, by one that kills at its n-th call."""
    where = importlib.import_module(module)
    *owners, function = name.split(".")
    for owner in owners:
        where = getattr(where, owner)
    original, calls = getattr(where, function), [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(where, function, counted)


def one(job: dict) -> list:
    def killed() -> int:
        dying(*job["kill"])
        return status(job["words"])

    log = Path(f"{job['out']}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    first = in_child(killed, log)
    before = log.read_text()
    second = in_child(lambda: status([job["words"][0], "--resume", job["out"]]), log)
    return [first, second, before + log.read_text()]


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    load_tokenizer(jobs[0]["words"][jobs[0]["words"].index("--model") + 1])
    print(json.dumps([one(job) for job in jobs]))
