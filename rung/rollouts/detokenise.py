"""Tokens to text while they come: never half a character, never part of a stop string.

A character may take several tokens, and a stop string several characters, so text is held back until nothing
that follows can change it. An answer that is not streamed goes through the same code, so both say the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from rung.data.tokens import token_texts

HALF = "\ufffd"  # what decoders write for bytes that are not a character, or not yet
GARBAGE = 64  # this many tokens without a character are no beginning of one


class Detokeniser:
    """Feed it tokens, get the text that is certain. Only the newest tokens are decoded again."""

    def __init__(self, tokenizer: Any, special: bool = False):
        self.tokenizer, self.special = tokenizer, special
        self.ids: list[int] = []
        self.before = self.given = (
            0  # ids[before:given] are decoded for context, ids[given:] are not text yet
        )

    def push(self, ids: Sequence[int]) -> str:
        self.ids += ids
        if not self._decode(self.before, len(self.ids)).endswith(HALF):
            return self._give(len(self.ids))
        # A character has four bytes at most: three tokens can be the beginning of one, what is older cannot.
        return self._give(len(self.ids) - 3) if len(self.ids) - self.given > GARBAGE else ""

    def end(self) -> str:
        """The rest, whole characters or not."""
        return self._give(len(self.ids))

    def _give(self, end: int) -> str:
        known = self._decode(self.before, self.given)
        text = self._decode(self.before, end)[len(known) :]
        if end > self.given:
            self.before, self.given = self.given, end
        return text

    def _decode(self, start: int, end: int) -> str:
        return self.tokenizer.decode(
            self.ids[start:end], skip_special_tokens=not self.special, clean_up_tokenization_spaces=False
        )


class Cutter:
    """Lets text through up to the first of some strings; holds back an end that may be the beginning of one."""

    def __init__(self, strings: Sequence[str]):
        self.strings, self.held, self.found = tuple(strings), "", ""  # found: the string that was met

    def push(self, text: str) -> str:
        if self.found or not text:
            return ""
        text = self.held + text
        places = [(text.find(string), -len(string), string) for string in self.strings if string in text]
        if places:
            place, _, self.found = min(places)
            self.held = text[place:]
            return text[:place]
        keep = max((_overlap(text, string) for string in self.strings), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back, unless a string was found: it then stays in `held`, the string included."""
        return "" if self.found else self.held


def _overlap(text: str, string: str) -> int:
    """How much of the end of `text` is a beginning of `string`."""
    sizes = range(min(len(text), len(string) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(string[:size])), 0)


class Name(NamedTuple):
    """A token as people read it. Part of a character has no text; it is shown as its bytes."""

    text: str
    raw: bytes | None  # None where the tokenizer hides them

    @property
    def letters(self) -> int:
        """How many characters begin in it."""
        return len(self.text) if self.raw is None else sum(byte & 0xC0 != 0x80 for byte in self.raw)


class TokenNames:
    """The name of every token, found once."""

    def __init__(self, tokenizer: Any):
        self.tokenizer, self.known = tokenizer, dict[int, Name]()

    def __getitem__(self, token: int) -> Name:
        if token not in self.known:
            self.known[token] = self._find(token)
        return self.known[token]

    def _find(self, token: int) -> Name:
        [text] = token_texts(self.tokenizer, [token])
        if HALF not in text:
            return Name(text, text.encode())
        raw = raw_bytes(self.tokenizer.convert_ids_to_tokens(token) or "")
        return Name(text, raw) if raw is None else Name("bytes:" + "".join(f"\\x{b:02x}" for b in raw), raw)


def raw_bytes(token: str) -> bytes | None:
    """The bytes of a vocabulary entry that is not text by itself: `<0xE2>`, or GPT-2's letters for bytes."""
    if match := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token):
        return bytes.fromhex(match[1])
    if token and all(letter in BYTE_OF for letter in token):
        return bytes(BYTE_OF[letter] for letter in token)
    return None


def _letters() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes are their own letters, the others stand in order from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


BYTE_OF = _letters()
