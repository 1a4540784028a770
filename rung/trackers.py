"""Where else the numbers go: one seam, several services, none by default.

The run folder is always the record; a tracker only repeats it. A service's package is imported when its name
is asked for and not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from rung.errors import UserError


class Tracker(Protocol):
    """A place that receives every logged row."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def finish(self) -> None: ...


def open_trackers(names: Sequence[str], run_path: Path, config: dict[str, Any]) -> list[Tracker]:
    """The trackers asked for; an unknown or uninstalled one is refused before any is opened."""
    return [TRACKERS[name][0](module, run_path, config) for name, module in require(names).items()]


def require(names: Sequence[str]) -> dict[str, ModuleType]:
    """The modules of the trackers asked for. Called early, it refuses before a run folder exists."""
    wanted = [name for name in dict.fromkeys(names) if name != "none"]
    for name in wanted:
        if name not in TRACKERS:
            raise UserError(f"there is no tracker {name!r}; choose from none, {', '.join(TRACKERS)}")
    return {name: load(name) for name in wanted}


def load(name: str) -> ModuleType:
    _, module_name, extra = TRACKERS[name]
    missing = UserError(
        f"the tracker {name} needs a package that is not installed; "
        f'run pip install "rung[{extra}]", or leave the tracker out'
    )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise missing from error
    # These services leave a folder of their own name behind, which Python takes for an empty package.
    if getattr(module, "__file__", "") is None:
        raise missing
    return module


class Tensorboard:
    """Event files in the run folder, under `tensorboard/`."""

    def __init__(self, module: ModuleType, run_path: Path, config: dict[str, Any]):
        self.writer = module.SummaryWriter(log_dir=str(run_path / "tensorboard"))
        self.writer.add_text(
            "config", "\n".join(f"    {key}: {value}" for key, value in flat(config).items())
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self.writer.close()


class WandbLike:
    """Weights & Biases, and trackio, which speaks the same three calls."""

    def __init__(self, module: ModuleType, run_path: Path, config: dict[str, Any]):
        self.module = module
        module.init(project="rung", name=run_path.name, config=config)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.module.log(dict(metrics), step=step)

    def finish(self) -> None:
        self.module.finish()


class Mlflow:
    """MLflow, wherever MLFLOW_TRACKING_URI points."""

    def __init__(self, module: ModuleType, run_path: Path, config: dict[str, Any]):
        self.module = module
        module.set_experiment("rung")
        module.start_run(run_name=run_path.name)
        # MLflow refuses parameters longer than 6000 characters and more than 100 in one call.
        items = [(key, str(value)[:6000]) for key, value in flat(config).items()]
        for start in range(0, len(items), 100):
            module.log_params(dict(items[start : start + 100]))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.module.log_metrics(dict(metrics), step=step)

    def finish(self) -> None:
        self.module.end_run()


# name -> (how to open it, the module it needs, the extra that installs it)
TRACKERS: dict[str, tuple[Callable[[ModuleType, Path, dict[str, Any]], Tracker], str, str]] = {
    "tensorboard": (Tensorboard, "torch.utils.tensorboard", "tensorboard"),
    "trackio": (WandbLike, "trackio", "trackio"),
    "wandb": (WandbLike, "wandb", "wandb"),
    "mlflow": (Mlflow, "mlflow", "mlflow"),
}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
