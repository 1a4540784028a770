"""Writes the golden masks: one file per template family, one token a line, `1` trained and `0` not.

Run `python tests/golden/templates/make.py` after a deliberate change, and read the difference before
committing it. A case that a template cannot render shows the message the user gets instead.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "data"))

from template_families import GOLDEN, tokenizer_of  # noqa: E402

from rung.batch import Example  # noqa: E402
from rung.data.formats import parse_row  # noqa: E402
from rung.data.show import token_lines  # noqa: E402
from rung.data.template import render  # noqa: E402
from rung.errors import UserError  # noqa: E402


def says(role: str, content: str, **more) -> dict:
    return {"role": role, "content": content, **more}


WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}},
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}

CASES: dict[str, dict] = {
    "multi-turn": {
        "messages": [
            says("user", "hello"),
            says("assistant", "hello world"),
            says("user", "two and two"),
            says("assistant", "four"),
        ]
    },
    "system": {
        "messages": [
            says("system", "you are a helpful model"),
            says("user", "hello"),
            says("assistant", "hello you"),
            says("user", "two and two"),
            says("assistant", "four\n"),
        ]
    },
    "tools": {
        "tools": [WEATHER],
        "messages": [
            says("user", "hello"),
            says("assistant", "hello you"),
            says("user", "the weather"),
            says("assistant", "", tool_calls=[CALL]),
            says("tool", "sun"),
            says("assistant", "the sun"),
        ],
    },
    "tool call without tools": {
        "messages": [
            says("user", "the weather"),
            says("assistant", "", tool_calls=[CALL]),
            says("tool", "sun"),
            says("assistant", "hello"),
        ],
    },
    "empty turn": {
        "messages": [
            says("user", "hello"),
            says("assistant", ""),
            says("user", "hello"),
            says("assistant", "\n\n four"),
        ]
    },
    "thinking": {
        "messages": [
            says("user", "two and two"),
            says("assistant", "<think>\ntwo is two\n</think>\n\nfour"),
            says("user", "and two"),
            says("assistant", "<think>\nthe answer\n</think>\n\nsix"),
        ]
    },
}


def golden(family: str) -> str:
    """The text of a golden file: every case, every context the conversation was forked into."""
    tokenizer = tokenizer_of(family)
    lines = []
    for name, case in CASES.items():
        lines.append(f"== {name}")
        try:
            rows = render(parse_row(case, f"{family}:{name}"), tokenizer)
        except UserError as error:
            lines += [f"UserError: {error}", ""]
            continue
        for number, row in enumerate(rows, 1):
            if len(rows) > 1:
                lines.append(f"-- context {number} of {len(rows)}")
            lines += token_lines(Example(row.token_ids, row.trained, ""), tokenizer)
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    for family in GOLDEN:
        (HERE / f"{family}.txt").write_text(golden(family), encoding="utf-8")
