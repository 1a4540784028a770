"""Hack on HHVM, whose makers publish packages only for some older systems."""

from __future__ import annotations

from pathlib import Path

from rung.sandbox.languages.language import Language, Toolchain, outside, which


def find() -> Toolchain | None:
    hhvm = which("hhvm")
    if hhvm is None:
        return None
    settings = [path for path in (Path("/etc/hhvm"),) if path.is_dir()]
    return Toolchain(
        (hhvm, "-d", "hhvm.repo.central.path=/tmp/hhbc", "main.hack"),
        version=(hhvm, "--version"),
        mounts=outside(Path(hhvm).parent.parent, *settings),
        runtime_memory=1 << 30,
        runtime_processes=32,
    )


LANGUAGE = Language(
    "hack",
    "Hack",
    "main.hack",
    ("hack", "hacklang"),
    find,
    "HHVM's packages: docs.hhvm.com, installation",
    '<<__EntryPoint>>\nfunction main(): void { echo "hello\\n"; }\n',
)
