"""Why a program was wrong, by rules over what the compiler or the runtime said of it.

    logic       it was a program of the language; its answer was wrong, or it crashed or ran into a limit
    ecosystem   it wanted a library that the language does not come with
    api         it used something real in the wrong way, or as another language has it
    invented    it used a name or a form that looks right and exists nowhere
    convention  it broke a rule of the house: imports, borrowing, unused names, literals, a language's older forms

Beside these stand `no_code` and `cut_off` (at the token limit, before the program was whole). A machine that has
no toolchain, or one that fails, says nothing of the program and gets no mistake.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rung.sandbox.result import Broken, CompileError, Failed, Missing, Passed, Result
from rung.studies.mistake_rules import FORMS, NAMES, RULES

KINDS = ("logic", "ecosystem", "api", "invented", "convention", "no_code", "cut_off")
MEANINGS = {
    "logic": "ran, and gave a wrong answer, crashed or ran into a limit",
    "ecosystem": "wanted a library that the language does not come with",
    "api": "used something real wrongly, or as another language has it",
    "invented": "used a name or a form that exists nowhere",
    "convention": "broke a rule of the language's house",
    "no_code": "no program in the answer",
    "cut_off": "ended at the token limit before the program was whole",
}
SCRIPTS = ("python", "javascript", "typescript", "hack")  # their runtimes say what elsewhere compilers say
SHOWN = 160


@dataclass(frozen=True)
class Mistake:
    kind: str  # of KINDS
    evidence: str = ""  # the line that says so


def mistake(language: str, code: str | None, result: Result | None, finish: str = "stop") -> Mistake | None:
    """None for a program that passed and for one that was not judged. `code` None: there was no program."""
    if code is None:
        return Mistake("cut_off" if finish == "length" else "no_code")
    if result is None or isinstance(result, Passed | Missing | Broken):
        return None
    told = isinstance(result, CompileError) or (language in SCRIPTS and isinstance(result, Failed))
    if not told or result.stderr.startswith("the compiler ran into its limit"):
        return Mistake("logic", ended(result))
    kind, line = told_by(language, code, result.stderr)
    if not kind:
        kind = "invented" if isinstance(result, CompileError) else "logic"
    if kind == "logic":
        return Mistake(kind, ended(result))
    if finish == "length" and kind in ("invented", "api"):  # a program without its end is no form at all
        return Mistake("cut_off", line)
    return Mistake(kind, line)


def told_by(language: str, code: str, message: str) -> tuple[str, str]:
    """The kind that the rule on the earliest line gives, and the line it matched on; ("", "") if none does."""
    found = [
        (message.count("\n", 0, match.start()), order, kind, match)
        for order, (kind, pattern) in enumerate(RULES[language])
        if (match := re.search(pattern, message, re.MULTILINE))
    ]
    if not found:
        return "", ""
    _, _, kind, match = min(found, key=lambda each: each[:2])
    line = message[message.rfind("\n", 0, match.start()) + 1 :].split("\n", 1)[0].strip()[:SHOWN]
    if kind == "unknown":
        kind = "api" if match.group(1) in NAMES else "invented"
    elif kind == "form":
        kind = "api" if re.search(FORMS[language], code, re.MULTILINE) else "invented"
    return kind, line


def ended(result: Result) -> str:
    """How a program of the right form went wrong, in a line."""
    if isinstance(result, Failed) and result.why == "wrong output":
        return f"printed {result.got.strip()[:60]!r}"
    if isinstance(result, Failed):
        said = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        return (said[-1] if said else result.why)[:SHOWN]
    return type(result).__name__
