"""Tokens made visible: which are trained, and where each begins and ends.

On a terminal trained tokens have a green background, in two shades that alternate so that tokens can be told
apart. Without colour, runs of trained tokens stand between ⟦ and ⟧. `token_lines` prints one token a line.
"""

from __future__ import annotations

from rich.text import Text
from transformers import PreTrainedTokenizerBase as Tokenizer

from rung.batch import Example
from rung.data.tokens import decode, token_texts

TRAINED = ("black on green", "black on bright_green")
UNTRAINED = ("dim", "dim underline")


def coloured(example: Example, tokenizer: Tokenizer) -> Text:
    text = Text()
    for i, piece in enumerate(token_texts(tokenizer, example.token_ids.tolist())):
        text.append(visible(piece), style=(TRAINED if example.trained[i] else UNTRAINED)[i % 2])
    return text


def bracketed(example: Example, tokenizer: Tokenizer) -> str:
    """The same without colour. Whole runs are decoded, so characters of several tokens stay readable."""
    shown = []
    start = 0
    for i in range(1, len(example) + 1):
        if i == len(example) or example.trained[i] != example.trained[start]:
            run = visible(decode(tokenizer, example.token_ids[start:i].tolist()))
            shown.append(f"⟦{run}⟧" if example.trained[start] else run)
            start = i
    return "".join(shown)


def token_lines(example: Example, tokenizer: Tokenizer) -> list[str]:
    """`1 'text'` for a trained token, `0 'text'` for another, in order."""
    return [
        f"{int(trained)} {piece!r}"
        for piece, trained in zip(
            token_texts(tokenizer, example.token_ids.tolist()), example.trained, strict=True
        )
    ]


def visible(text: str) -> str:
    """A line break keeps breaking the line, but leaves a mark, because whether it is trained matters."""
    return text.replace("\n", "⏎\n")
