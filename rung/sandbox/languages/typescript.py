"""TypeScript: types are erased and the JavaScript runs on Node; a syntax error is a compile error.

Types are not checked. A checker needs declarations for everything the program imports, Node's own library
first, and machines without them would refuse correct programs.
"""

from __future__ import annotations

import os
from pathlib import Path

from rung.sandbox.languages import javascript
from rung.sandbox.languages.language import Language, Toolchain, outside, which

ERASE = """
const ts = require(process.argv[2]), fs = require("fs");
const result = ts.transpileModule(fs.readFileSync("main.ts", "utf8"), {
  reportDiagnostics: true, fileName: "main.ts",
  compilerOptions: { target: "ES2022", module: "CommonJS", esModuleInterop: true },
});
for (const found of result.diagnostics) {
  const where = found.file ? found.file.getLineAndCharacterOfPosition(found.start).line + 1 : 0;
  console.error(`main.ts(${where}): ` + ts.flattenDiagnosticMessageText(found.messageText, "\\n"));
}
if (result.diagnostics.length) process.exit(1);
fs.writeFileSync("main.js", result.outputText);
"""


def find() -> Toolchain | None:
    node, package = javascript.find(), compiler()
    if node is None or package is None:
        return None
    script = str(package / "lib/tsc.js")
    eraser: tuple[str, ...] = ("erase.cjs", str(package))
    if not is_library(package):
        eraser = (
            script,
            "main.ts",
            "--noCheck",
            "--noEmitOnError",
            *("--target", "es2022", "--module", "commonjs"),
        )
    return Toolchain(
        node.run,
        compile=(node.run[0], *eraser),
        version=(node.run[0], script, "--version"),
        # what tsc needs lies beside it
        mounts=(*node.mounts, *outside(package if is_library(package) else package.parent)),
        extra_files={"erase.cjs": ERASE},
        runtime_memory=node.runtime_memory,
        runtime_processes=node.runtime_processes,
    )


def is_library(package: Path) -> bool:
    """Up to 6 the compiler can be called from JavaScript, one file at a time; 7 is a program of its own."""
    return (package / "lib/typescript.js").is_file()


def compiler() -> Path | None:
    """The npm package: behind the tsc on the PATH, in this folder's node_modules, or where NODE_PATH says."""
    tsc = which("tsc")
    places = [Path(tsc).parent.parent] if tsc else []
    places += [Path.cwd() / "node_modules/typescript"]
    places += [Path(place) / "typescript" for place in os.environ.get("NODE_PATH", "").split(":") if place]
    return next((place.resolve() for place in places if (place / "lib/tsc.js").is_file()), None)


LANGUAGE = Language(
    "typescript",
    "TypeScript",
    "main.ts",
    ("typescript", "ts"),
    find,
    "npm install -g typescript (and nodejs)",
    'const word: string = "hello";\nconsole.log(word);\n',
)
