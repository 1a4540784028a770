"""`rung doctor`: what this machine and this installation can do, measured where that is possible."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("rung", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "gguf")
BUSY = 0.1  # share of the CPU that others may use before a measurement is called disturbed
# extra -> (its package, what it enables)
EXTRAS = {
    "tasks": ("reasoning-gym", "generated tasks, as in the quickstart"),
    "plot": ("matplotlib", "rung runs plot"),
    "hub": ("datasets", "rows from the Hugging Face hub"),
    "lowbit": ("torchao", "8-bit and CPU-offloaded optimizer state"),
    "tensorboard": ("tensorboard", "--trackers tensorboard"),
    "trackio": ("trackio", "--trackers trackio"),
    "wandb": ("wandb", "--trackers wandb"),
    "mlflow": ("mlflow-skinny", "--trackers mlflow"),
}


@dataclass(frozen=True)
class Doctor:
    """Versions, devices, measured matrix speed, memory, the model cache, and what each extra would enable."""

    json: bool = False
    """Print one JSON object instead."""
    measure: bool = True
    """Measure the matrix products (one or two seconds)."""


def main(settings: Doctor) -> int:
    report = examine(settings.measure)
    if settings.json:
        import json

        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 0


def examine(measure: bool) -> dict[str, Any]:
    """Everything the doctor knows, as plain data."""
    import psutil

    from rung.machine import machine_summary

    machine = machine_summary()
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "machine": machine,
        "memory_free_gb": round(psutil.virtual_memory().available / 1e9, 1),
        "cpu_busy": round(psutil.cpu_percent(interval=0.2) / 100, 2),  # with the work of others, for now
        "peaks": peaks(machine) if measure else {},
        "kernels": kernels(),
        "cache": cache(),
        "extras": {
            extra: {
                "installed": version(package) is not None,
                "enables": enables,
                "command": f'pip install "rung[{extra}]"',
            }
            for extra, (package, enables) in EXTRAS.items()
        },
    }


def version(name: str) -> str | None:
    return next((found.version for found in importlib.metadata.distributions(name=name)), None)


def peaks(machine: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Measured TFLOP/s of matrix products: device -> dtype -> figure."""
    import torch

    from rung.machine import matrix_peak

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    return {
        device: {
            str(dtype).removeprefix("torch."): float(f"{matrix_peak(dtype, device) / 1e12:.3g}")
            for dtype in dtypes
        }
        for device in devices
    }


def kernels() -> str:
    """The CPU's own kernels: where they are, or why there are none."""
    from rung.kernels import native

    try:
        return str(native.load()[1])
    except native.NoKernels as reason:
        return f"none, PyTorch's operators instead: {reason}"


def cache() -> dict[str, Any]:
    """Where models are kept, and what is there."""
    from rung.models.hub import cache_folder

    folder = cache_folder()
    kept = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return {"folder": str(folder), "models": {path.name: size_gb(path) for path in kept}}


def size_gb(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9, 2)


def show(report: dict[str, Any]) -> None:
    """The report as a page: one heading, one table, four times."""
    from rich.console import Console

    out = Console(highlight=False)
    machine = report["machine"]
    section(
        out,
        "versions",
        [(name, found or "[yellow]not installed[/]") for name, found in report["versions"].items()],
    )
    own = ("kernels", report["kernels"])
    section(out, "machine", [*machine_rows(machine, report["memory_free_gb"]), own])
    for device, figures in report["peaks"].items():
        section(out, f"matrix products on {device}, measured", peak_rows(figures))
    if report["peaks"] and report["cpu_busy"] > BUSY:
        busy = f"{report['cpu_busy']:.0%}"
        out.print(f"[yellow]The CPU was {busy} busy with other work: these figures are too low.[/]\n")
    models = report["cache"]["models"]
    rows = [(name, f"{size:.2f} GB") for name, size in models.items()]
    section(out, f"models in {report['cache']['folder']}", rows or [("none yet", "rung fetch smollm2-135m")])
    section(out, "extras", [extra_row(name, extra) for name, extra in report["extras"].items()])


def section(out: Any, title: str, rows: list[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim", min_width=14)
    table.add_column()
    for row in rows:
        table.add_row("  " + row[0], row[1])
    out.print(f"[bold]{title}[/]", soft_wrap=True)
    out.print(table)
    out.print()


def machine_rows(machine: dict[str, Any], free_gb: float) -> list[tuple[str, str]]:
    cores = f"{machine['usable_cores']} of {machine['cores']} cores usable, {machine['threads']} threads"
    features = ", ".join(machine["cpu_features"]) or "none that matter here"
    rows = [
        ("system", machine["system"]),
        ("cpu", f"{machine['cpu']}; {cores}"),
        ("instructions", features + "; " + native_bf16(machine["cpu_features"])),
        ("memory", f"{machine['memory_gb']} GB, {free_gb} GB free"),
    ]
    for device in machine["devices"]:
        details = [
            f"{device['memory_gb']} GB",
            f"capability {device['capability']}",
            f"CUDA {device['cuda']}",
        ]
        rows.append(
            ("gpu", f"{device['name']}; " + ", ".join(details))
            if "cuda" in device
            else ("gpu", device["name"])
        )
    return (
        rows
        if machine["devices"]
        else [*rows, ("gpu", "none that this torch sees; training runs on the CPU")]
    )


def native_bf16(features: list[str]) -> str:
    if "amx_bf16" in features:
        return "bf16 products in AMX tiles"
    if "avx512_bf16" in features or "bf16" in features:
        return "bf16 products natively"
    return "no bf16 products, so float32 is as fast"


def peak_rows(figures: dict[str, float]) -> list[tuple[str, str]]:
    """Figures with their ratio to float32, which says which dtype to train in."""
    base = figures["float32"]
    return [
        (
            name,
            f"{figure:.3g} TFLOP/s" + ("" if name == "float32" else f", {figure / base:.2g} times float32"),
        )
        for name, figure in figures.items()
    ]


def extra_row(name: str, extra: dict[str, Any]) -> tuple[str, str]:
    if extra["installed"]:
        return name, f"[green]yes[/]  {extra['enables']}"
    # rich reads [name] as markup, hence the escaped bracket
    return name, f"[dim]no [/]  {extra['enables']}: [cyan]{extra['command'].replace('[', chr(92) + '[')}[/]"
