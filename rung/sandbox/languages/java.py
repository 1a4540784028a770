"""Java. The class with `main` may have any name as long as it is not public, or is called Main."""

from __future__ import annotations

from pathlib import Path

from rung.sandbox.languages.language import Language, Toolchain, outside, which

# One garbage collector thread and the quick compiler: programs here live for a second.
JVM = (
    *("-Xmx{memory_mb}m", "-Xms16m", "-Xss16m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    *("-XX:-UsePerfData", "-Xshare:auto", "-XX:ReservedCodeCacheSize=64m", "-XX:CICompilerCount=1"),
)


def find() -> Toolchain | None:
    java, javac = which("java"), which("javac")
    if java is None or javac is None:
        return None
    return Toolchain(
        (java, *JVM, "-cp", "classes", "Main"),
        compile=(
            javac,
            "-J-Xmx512m",
            "-J-XX:+UseSerialGC",
            "-J-XX:TieredStopAtLevel=1",
            "-d",
            "classes",
            "Main.java",
        ),
        version=(java, "-version"),
        mounts=jdk_mounts(java, javac),
        runtime_memory=700 << 20,
        runtime_processes=40,
    )


def jdk_mounts(*tools: str) -> tuple[str, ...]:
    """The JDK, and the folder in /etc where Debian's keeps its configuration."""
    homes = {Path(tool).parent.parent for tool in tools}
    configuration = {path.resolve().parent for home in homes for path in (home / "conf").glob("*")}
    return tuple(sorted({*outside(*homes, *configuration), *outside(*etc(homes))}))


def etc(homes: set[Path]) -> list[Path]:
    """Every /etc folder that a link below the JDK points into."""
    links = [path for home in homes for path in home.rglob("*") if path.is_symlink()]
    targets = [path.resolve() for path in links]
    return [
        Path(*path.parts[:3]) for path in targets if path.parts[:2] == ("/", "etc") and len(path.parts) > 3
    ]


LANGUAGE = Language(
    "java",
    "Java",
    "Main.java",
    ("java",),
    find,
    "apt-get install default-jdk-headless",
    'class Main { public static void main(String[] a) { System.out.println("hello"); } }\n',
)
