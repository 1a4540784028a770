"""Go. Modules and networks are off: a program has the standard library and one file."""

from __future__ import annotations

from pathlib import Path

from rung.sandbox.languages.language import Language, Toolchain, outside, which

ENVIRONMENT = {"GOCACHE": "/tmp/gocache", "GOPATH": "/tmp/go", "GO111MODULE": "off", "GOTOOLCHAIN": "local"}
ENVIRONMENT |= {"CGO_ENABLED": "0", "GOFLAGS": "-p=2", "GOTELEMETRY": "off"}


def find() -> Toolchain | None:
    go = which("go")
    if go is None:
        return None
    root = Path(go).parent.parent
    return Toolchain(
        ("./main",),
        compile=(go, "build", "-o", "main", "main.go"),
        version=(go, "version"),
        mounts=outside(root, *linked(root)),
        environment=ENVIRONMENT,
        runtime_memory=64 << 20,
        runtime_processes=16,
        compile_disk=512 << 20,  # it compiles its standard library into its cache
    )


def linked(root: Path) -> list[Path]:
    """Distributions keep parts of the tree elsewhere, behind links."""
    return [path.resolve() for path in root.iterdir() if path.is_symlink()]


LANGUAGE = Language(
    "go",
    "Go",
    "main.go",
    ("go", "golang"),
    find,
    "apt-get install golang-go",
    'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("hello") }\n',
)
