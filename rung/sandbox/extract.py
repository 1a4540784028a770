"""The program in an answer: what stands in its fenced block.

Where several blocks could be meant, the last one that defines what was asked for wins, else the last one: a
second attempt replaces a first, and an example of use after the solution defines nothing. Blocks that name
the language go before blocks that name none; blocks of other languages never count. A fence that is never
closed runs to the end. Without a fence there is no code: prose is not a program.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rung.sandbox.languages import language

FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\s`{]*)[^\n]*$", re.MULTILINE)


def extract(answer: str, name: str = "python", defines: Sequence[str] = ()) -> str | None:
    """The code of the named language, or None. `defines`: names that the program must bring."""
    words = set(language(name).fences)
    found = blocks(answer)
    named = [code for word, code in found if word.lower() in words]
    candidates = named or [code for word, code in found if not word]
    telling = [code for code in candidates if all(re.search(rf"\b{re.escape(d)}\b", code) for d in defines)]
    defining = [code for code in telling if any(defined(each, code) for each in defines)]
    return next(reversed(defining or telling or candidates), None)


def blocks(answer: str) -> list[tuple[str, str]]:
    """(the word after the fence, the code), in order."""
    found, position = [], 0
    while opening := FENCE.search(answer, position):
        fence, word = opening.groups()
        start = min(opening.end() + 1, len(answer))
        closing = re.compile(rf"^[ \t]*{fence[0]}{{{len(fence)},}}[ \t]*$", re.MULTILINE).search(
            answer, start
        )
        end = closing.start() if closing else len(answer)
        found.append((word, answer[start:end]))
        position = closing.end() if closing else len(answer)
    return found


def defined(name: str, code: str) -> bool:
    return (
        re.search(rf"^[ \t]*(?:def|class|fn|func|fun|function|let)[ \t]+{re.escape(name)}\b", code, re.M)
        is not None
    )
