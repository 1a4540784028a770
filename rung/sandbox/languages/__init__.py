"""The languages of the sandbox, one file each."""

from __future__ import annotations

import functools

from rung.errors import UserError
from rung.sandbox.languages import (
    cpp,
    go,
    hack,
    java,
    javascript,
    kotlin,
    ocaml,
    python,
    rust,
    typescript,
    zig,
)
from rung.sandbox.languages.language import Language, Toolchain

LANGUAGES: dict[str, Language] = {
    file.LANGUAGE.name: file.LANGUAGE
    for file in (python, typescript, javascript, go, rust, java, kotlin, ocaml, zig, cpp, hack)
}


def language(name: str) -> Language:
    """By its name or by what fences call it."""
    wanted = name.lower()
    for each in LANGUAGES.values():
        if wanted == each.name or wanted in each.fences:
            return each
    raise UserError(f"the sandbox knows no language {name!r}; it knows {', '.join(LANGUAGES)}")


@functools.cache
def toolchain(name: str) -> Toolchain | None:
    """What this machine has for a language, looked up once."""
    return LANGUAGES[name].find()
