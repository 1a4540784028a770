"""JavaScript on Node. Its heap is told its limit, because V8 reserves far more than it uses."""

from __future__ import annotations

from pathlib import Path

from rung.sandbox.languages.language import Language, Toolchain, outside, which


def find() -> Toolchain | None:
    node = which("node") or which("nodejs")
    if node is None:
        return None
    return Toolchain(
        (node, "--max-old-space-size={memory_mb}", "--stack-size=3900", "main.js"),
        version=(node, "--version"),
        mounts=outside(Path(node).parent.parent),
        runtime_memory=400 << 20,
        runtime_processes=16,
    )


LANGUAGE = Language(
    "javascript",
    "JavaScript",
    "main.js",
    ("javascript", "js", "node", "mjs"),
    find,
    "apt-get install nodejs",
    'console.log("hello")\n',
)
