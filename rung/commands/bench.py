"""`rung bench NAME`: run a benchmark of the checkout that rung is installed from.

Benchmarks are not part of the installed package: they need data, time and the peers they compare with. Each
is a file `benchmarks/NAME.py` with `main(argv) -> int`, and takes those of the options below that it knows.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import tyro

import rung
from rung.errors import UserError


@dataclass(frozen=True)
class Bench:
    """Measure rung, and its peers on the same work, on this machine. `make peers` installs the peers.

    sft, dpo, grpo: a training step against TRL. rollout: sampling against vLLM and transformers. kernels: the
    language-model head against plain torch and Liger. native: the CPU kernels against the operators of PyTorch.
    """

    name: tyro.conf.Positional[str] = ""
    """The benchmark; without one, those that exist are listed."""
    json: bool = False
    """Print one JSON object last."""
    quick: bool = False
    """One turn of each contestant: does it work, about how fast."""
    runs: int | None = None
    """Turns of each contestant; medians are reported."""
    peers: bool = True
    """Also measure the peers; --no-peers measures rung alone."""
    device: Literal["cpu", "cuda"] | None = None
    """Where; by default on a CUDA device where there is one."""
    steps: int | None = None
    """sft, dpo: optimizer steps of each run, the warm-up included."""
    data: str | None = None
    """sft: the JSONL file with GSM8K's training rows. dpo: the one with HH-RLHF's pairs."""
    trained: Literal["all", "answers"] | None = None
    """sft: every token, so that all contestants do the same arithmetic (the default), or answers only."""
    model: str | None = None
    """sft, dpo: another model than the benchmark's own."""
    tokens: int | None = None
    """kernels: how many tokens go through the head."""


def main(settings: Bench) -> int:
    return find(settings.name, Path(rung.__file__).parent.parent)(words(settings))


def find(name: str, checkout: Path) -> Callable[[list[str]], int]:
    """The `main` of a benchmark of this checkout."""
    folder = checkout / "benchmarks"
    if not (folder / "__init__.py").is_file():
        raise UserError(
            f"rung is installed in {checkout}, which is not a checkout, and the benchmarks are not part of "
            "the package; clone the repository and write in it: pip install -e ."
        )
    known = [file.stem for file in sorted(folder.glob("*.py")) if "\ndef main(" in file.read_text()]
    if name not in known:
        given = f"there is no benchmark {name!r}" if name else "no benchmark was named"
        raise UserError(f"{given}; write `rung bench NAME` with one of: {', '.join(known)}")
    sys.path.insert(0, str(checkout))
    return importlib.import_module(f"benchmarks.{name}").main


def words(settings: Bench) -> list[str]:
    """The options given, as the benchmark's own command line."""
    given: list[str] = []
    for field in fields(settings):
        value, option = getattr(settings, field.name), "--" + field.name.replace("_", "-")
        if field.name == "name" or value == field.default:
            continue
        if isinstance(value, bool):
            given.append(option if value else option.replace("--", "--no-", 1))
        else:
            given += [option, str(value)]
    return given
