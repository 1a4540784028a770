"""One self-contained HTML page from parts: what a recipe leaves behind for a browser.

No script, no address of anything outside: pictures are inside the page, so the file can be sent to someone. Every
text goes through `html.escape`; what a model wrote is text like any other.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rung.run import write_atomically

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #66707f; --line: #e3e6ea; --paper: #ffffff; --tint: #f5f7f9;
        --good: #237a48; --bad: #b3402e; --mark: #2a6fbb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #98a2b0; --line: #323a45; --paper: #14181d;
        --tint: #1b2027; --good: #63c48d; --bad: #e88b7b; --mark: #7fb2ea; } .plot { background: #ffffff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 60rem; background: var(--paper); color: var(--ink);
       font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
p { margin: .5rem 0; max-width: 44rem; } .soft { color: var(--soft); } .good { color: var(--good); }
.bad { color: var(--bad); }
.numbers { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.number { flex: 1 1 10rem; border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; }
.number b { display: block; font-size: 1.6rem; font-variant-numeric: tabular-nums; }
.number span { color: var(--soft); font-size: .85rem; display: block; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: right; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
td:last-child { white-space: normal; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 500; }
.plot { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: .5rem; }
.rollout { border: 1px solid var(--line); border-radius: .5rem; margin: .8rem 0; overflow: hidden; }
.rollout header { display: flex; gap: 1rem; flex-wrap: wrap; padding: .5rem .9rem; background: var(--tint);
       font-size: .88rem; color: var(--soft); }
.rollout pre { margin: 0; padding: .7rem .9rem; white-space: pre-wrap; overflow-wrap: anywhere;
       font: 13.5px/1.6 ui-monospace, monospace; }
.rollout .asked { color: var(--soft); border-bottom: 1px dashed var(--line); }
.token { border-radius: 3px; } code { font: .9em ui-monospace, monospace; background: var(--tint); padding: .1em .3em;
       border-radius: 3px; } pre.command { background: var(--tint); padding: .8rem 1rem; border-radius: .5rem;
       overflow-x: auto; font: 13.5px/1.6 ui-monospace, monospace; }
"""


@dataclass
class Page:
    """Parts in the order in which they were added; `write` makes the file."""

    title: str
    subtitle: str = ""
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str, *, soft: bool = False) -> None:
        self.parts.append(
            f'<p class="soft">{html.escape(text)}</p>' if soft else f"<p>{html.escape(text)}</p>"
        )

    def numbers(self, cards: Sequence[tuple[str, str, str]]) -> None:
        """`(label, value, remark)` as a row of cards."""
        shown = "".join(
            f'<div class="number"><span>{html.escape(label)}</span><b>{html.escape(value)}</b>'
            f"<span>{html.escape(remark)}</span></div>"
            for label, value, remark in cards
        )
        self.parts.append(f'<div class="numbers">{shown}</div>')

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """The first row is the head."""
        head, *body = [[html.escape(cell) for cell in row] for row in rows]
        lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
        lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
        self.parts.append(f'<div class="scroll"><table>{"".join(lines)}</table></div>')

    def picture(self, file: Path, alt: str) -> None:
        data = base64.b64encode(file.read_bytes()).decode()
        self.parts.append(
            f'<p style="max-width:none"><img class="plot" alt="{html.escape(alt)}" src="data:image/png;base64,{data}"></p>'
        )

    def command(self, text: str) -> None:
        self.parts.append(f'<pre class="command">{html.escape(text)}</pre>')

    def rollout(
        self, asked: str, tokens: Sequence[str], logprobs: Sequence[float], facts: Sequence[tuple[str, str]]
    ) -> None:
        """An answer with each token shaded by how surprising it was to the model that wrote it."""
        told = "".join(
            f"<span>{html.escape(name)} <b>{html.escape(value)}</b></span>" for name, value in facts
        )
        written = "".join(
            f'<span class="token" style="background:{shade(logprob)}" title="p = {np.exp(logprob):.3f}">'
            f"{html.escape(token)}</span>"
            for token, logprob in zip(tokens, logprobs, strict=True)
        )
        self.parts.append(
            f'<div class="rollout"><header>{told}</header><pre class="asked">{html.escape(asked)}</pre>'
            f"<pre>{written}</pre></div>"
        )

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
            f'<h1>{html.escape(self.title)}</h1><p class="soft">{html.escape(self.subtitle)}</p>'
            f"{''.join(self.parts)}</body></html>\n"
        )
        write_atomically(path, text.encode())
        return path


def shade(logprob: float) -> str:
    """Nothing for a certain token, deeper orange the less likely it was."""
    return f"rgba(224, 122, 31, {min(0.65, 0.16 * -min(float(logprob), 0.0)):.2f})"
