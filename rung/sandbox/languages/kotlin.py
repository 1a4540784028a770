"""Kotlin on the JVM. Its compiler is a Java program of many seconds; give compile_seconds room."""

from __future__ import annotations

from pathlib import Path

from rung.sandbox.languages import java
from rung.sandbox.languages.language import Language, Toolchain, outside, which


def find() -> Toolchain | None:
    kotlinc, virtual_machine = which("kotlinc"), java.find()
    if kotlinc is None or virtual_machine is None:
        return None
    return Toolchain(
        (*virtual_machine.run[: 1 + len(java.JVM)], "-cp", "main.jar", "MainKt"),
        compile=(kotlinc, "Main.kt", "-include-runtime", "-d", "main.jar"),
        version=(kotlinc, "-version"),
        mounts=(*virtual_machine.mounts, *outside(Path(kotlinc).parent.parent)),
        environment={"JAVA_HOME": str(Path(virtual_machine.run[0]).parent.parent)},
        runtime_memory=virtual_machine.runtime_memory,
        runtime_processes=virtual_machine.runtime_processes,
    )


LANGUAGE = Language(
    "kotlin",
    "Kotlin",
    "Main.kt",
    ("kotlin", "kt"),
    find,
    "apt-get install kotlin (1.3; a newer one: kotlinlang.org) and a JDK",
    'fun main() { println("hello") }\n',
)
