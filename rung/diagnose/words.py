"""What a text is made of, as a set of features: words, pairs and triples of words, marks of formatting.

A feature is in a text or not; how often does not matter, so that one looping answer counts once. Numbers are all the
same word, `0`, for tasks differ in theirs. Of a long text the first `WORDS_READ` words count.
"""

from __future__ import annotations

import re

WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*")
LONGEST, WORDS_READ = 30, 500  # letters of a word, words of a text

MARKS = {
    "[bullets]": re.compile(r"^\s*[-*•+]\s+\S", re.MULTILINE),
    "[numbered list]": re.compile(r"^\s*\d+[.)]\s+\S", re.MULTILINE),
    "[heading]": re.compile(r"^#{1,6}\s+\S", re.MULTILINE),
    "[bold]": re.compile(r"\*\*[^*\n]+\*\*"),
    "[table]": re.compile(r"^\s*\|.*\|\s*$", re.MULTILINE),
    "[code block]": re.compile(r"^\s*```", re.MULTILINE),
    "[emoji]": re.compile("[\U0001f300-\U0001faff\u2600-\u27bf\U0001f1e6-\U0001f1ff]"),
    "[dash —]": re.compile("—"),
    "[exclamation !]": re.compile(r"!"),
    "[capitals]": re.compile(r"\b[A-Z]{4,}\b(?:\W+[A-Z]{4,}\b){2}"),
}


def features(text: str) -> set[str]:
    words = [
        "0" if match[0][0].isdigit() else match[0].lower()[:LONGEST]
        for _, match in zip(range(WORDS_READ), WORD.finditer(text), strict=False)
    ]
    found = {name for name, mark in MARKS.items() if mark.search(text)}
    for size in (1, 2, 3):
        found.update(" ".join(words[i : i + size]) for i in range(len(words) - size + 1))
    return found
