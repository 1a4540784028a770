"""The final answer in a text: what stands in <answer> tags, in \\boxed{}, after ####, or on an `Answer:` line.

Thinking is never searched: an answer that the model only considered is not its answer. Where several answers
of one form stand, the last counts; where several forms stand, the more deliberate form counts, in the order
above. All of it takes time linear in the text, because it runs on whatever a model may write.
"""

from __future__ import annotations

import re

ANSWER_LINE = re.compile(
    r"^[ \t>*_#-]*(?:the )?(?:final )?answer(?: is)?[ \t*_]*(?::|(?<=is))[ \t*_]*(\S.*)$", re.I | re.M
)
# A sign belongs to the number unless a digit, a letter or a closing bracket stands before it: 5-3 is 5 and 3.
NUMBER = re.compile(
    r"(?<![\w.)\]}])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\w))?"
    r"|(?<![\w.)\]}])[-+\u2212]?\.\d+|\d+(?:,\d{3})*(?:\.\d+)?"
)


def without_thinking(text: str) -> str:
    """What follows the last </think>. A thought that never ends has no answer after it.

    A template may put <think> into the prompt, so the closing tag alone is enough.
    """
    visible = text.rpartition("</think>")[2]
    return visible.partition("<think>")[0]


def tagged(text: str, tag: str = "answer") -> str | None:
    """The inside of the last complete <tag>...</tag>."""
    close = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, close) if close >= 0 else -1
    return text[start + len(tag) + 2 : close].strip() if start >= 0 else None


def boxed(text: str) -> str | None:
    """The inside of the last complete \\boxed{...}, braces nested to any depth. `\\{` does not count."""
    found: str | None = None
    opened: list[int | None] = []  # for each open brace the position after it, or None where it is no box
    for match in re.finditer(r"\\boxed\s*\{|\\fbox\s*\{|\\.|[{}]", text):
        token = match.group()
        if token == "}":
            start = opened.pop() if opened else None
            if start is not None:
                found = text[start : match.start()].strip()
        elif token.endswith("{") and token != "\\{":
            opened.append(match.end() if len(token) > 1 else None)
    return found


def after_hashes(text: str) -> str | None:
    """The rest of the last line that has GSM8K's `#### `."""
    _, mark, after = text.rpartition("####")
    return after.strip().partition("\n")[0].strip() or None if mark else None


def answer_line(text: str) -> str | None:
    """The rest of the last line that begins with `Answer:`, `The answer is`, `**Final answer:**`."""
    found = ANSWER_LINE.findall(text)
    return found[-1].strip().strip("*_").strip() if found else None


def marked_answer(text: str) -> str | None:
    """The answer the model pointed out as such, thinking left out; None where it pointed out nothing."""
    visible = without_thinking(text)
    for form in (tagged, boxed, after_hashes, answer_line):
        found = form(visible)
        if found is not None:
            inner = boxed(found) if form is not boxed else None  # <answer>\boxed{5}</answer>
            return found if inner is None else inner
    return None


def final_answer(text: str) -> str:
    """The marked answer, or all that was said after thinking."""
    marked = marked_answer(text)
    return without_thinking(text).strip() if marked is None else marked


def last_number(text: str) -> str | None:
    """The last number as it is written there, sign and separators included."""
    found = NUMBER.findall(text)
    return found[-1] if found else None
