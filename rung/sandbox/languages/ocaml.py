"""OCaml, compiled to native code with the standard library, str and unix."""

from __future__ import annotations

from pathlib import Path

from rung.sandbox.languages.language import Language, Toolchain, outside, which


def find() -> Toolchain | None:
    ocamlopt = which("ocamlopt")
    if ocamlopt is None:
        return None
    libraries = ("-w", "-a", "unix.cmxa", "str.cmxa")
    return Toolchain(
        ("./main",),
        compile=(ocamlopt, "-I", "+unix", "-I", "+str", *libraries, "main.ml", "-o", "main"),
        version=(ocamlopt, "-version"),
        mounts=outside(Path(ocamlopt).parent.parent),
    )


LANGUAGE = Language(
    "ocaml",
    "OCaml",
    "main.ml",
    ("ocaml", "ml"),
    find,
    "apt-get install ocaml-nox",
    'let () = print_endline "hello"\n',
)
