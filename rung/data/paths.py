"""The reasoning path of an answer: what two right answers must differ in to be worth training on both.

    "Tom has 3 + 4 = 7. Then 7 x 2 = 14."   ->   3+4=7 ; 7*2=14
    "First 3+4=7, doubled 7*2=14!"          ->   3+4=7 ; 7*2=14          the same path in other words
    "Paris, of course."                     ->   paris of course         no equation: its words

Rejection-sampling fine-tuning (2308.01825) keeps one answer of each list of equations, since copies teach a
phrasing and not a way. Equations are compared as written, in order: 4+3=7 is another than 3+4=7. What is right of
the last `=` of a chain is kept too, so a slip on the way makes another path. Unlike the paper, which draws the most
distant texts by edit distance, the first sample of a path is the one kept: it is a fair draw from the policy.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

Sameness = Literal["equations", "text", "none"]

SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")"})
LATEX = {r"\times": "*", r"\cdot": "*", r"\div": "/", "\\left": "", "\\right": ""}
# Operands joined by signs; a bound on how many keeps the time linear in whatever a model may write.
OPERAND = r"[-( ]{0,9}\d{1,30}(?:\.\d{1,30})?[) ]{0,9}"
SIDE = rf"{OPERAND}(?:[-+*/]{OPERAND}){{0,30}}"
EQUATION = re.compile(rf"{SIDE}(?:={SIDE}){{1,9}}")
BULLET = re.compile(r"^(?:[-*•]|\d+[.)]) ")
GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")  # 1,000
BETWEEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=[\d(])")  # 3 x 4
UNITS = re.compile(r"[$€£%]")


def equations(text: str) -> list[str]:
    """Every equation with an operation in it, without white space, in the order they stand."""
    for name, sign in LATEX.items():
        text = text.replace(name, sign)
    text = BETWEEN.sub("*", UNITS.sub("", GROUPED.sub("", text.translate(SIGNS))))
    found = []
    for line in text.splitlines():
        for match in EQUATION.finditer(BULLET.sub("", " ".join(line.split()))):
            written = match[0].replace(" ", "")
            if re.search(r"\d\)*[-+*/]", written):  # `x = 5` and `answer = 12` are no step
                found.append(written)
    return found


def words(text: str) -> str:
    """The words alone: case, marks and white space do not count; signs between numbers do."""
    text = unicodedata.normalize("NFKC", text).translate(SIGNS).casefold()
    return " ".join(re.findall(r"[\w]+|[-+*/=<>^]", text))


def path_of(text: str, same: Sameness = "equations") -> str:
    """What makes two answers the same. With `none` an answer is only equal to its exact copy."""
    if same == "none":
        return text
    steps = equations(text) if same == "equations" else []
    return " ; ".join(steps) or words(text)
