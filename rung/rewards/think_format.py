"""Was the asked form kept: one <think>...</think>, then one <answer>...</answer>, and nothing else?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rung.rewards.score import Attempt, Score, Verdict


@dataclass(frozen=True)
class ThinkFormat:
    """The mean of four parts, each 0 or 1: `think`, `answer`, `order`, `clean`; 1 only where all hold.

    `think` and `answer`: exactly one opening and one closing tag, something between them. `order`: the thought
    is closed before the answer opens. `clean`: nothing stands outside the two. With `partial` False a form
    that is not kept wholly is worth 0. `opened` says that the prompt already ends in <think>.
    """

    partial: bool = True
    opened: bool = False
    trusted: ClassVar[bool] = True

    def __call__(self, attempt: Attempt) -> Verdict:
        text = ("<think>" if self.opened else "") + attempt.answer
        think, answer = _span(text, "think"), _span(text, "answer")
        ordered = think is not None and answer is not None and think[1] <= answer[0]
        parts = {"think": think is not None, "answer": answer is not None, "order": ordered, "clean": False}
        if ordered:
            assert think is not None and answer is not None
            outside = text[: think[0]] + text[think[1] : answer[0]] + text[answer[1] :]
            parts["clean"] = not outside.strip()
        value = sum(parts.values()) / len(parts) if self.partial else float(all(parts.values()))
        return Score(value, {name: float(kept) for name, kept in parts.items()})


def _span(text: str, tag: str) -> tuple[int, int] | None:
    """From the opening tag to the end of the closing one, if each stands once, in order, around something."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    start, end = text.find(opening), text.find(closing)
    if text.count(opening) != 1 or text.count(closing) != 1 or end < start:
        return None
    return (start, end + len(closing)) if text[start + len(opening) : end].strip() else None
