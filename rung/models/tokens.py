"""The tokens of a model folder, read from its tokenizer.json alone: importing transformers takes longer than a small merge.

What transformers would read is the same, unless other files name tokens that tokenizer.json lacks: it adds those.
Then, and for the older kinds of files, it is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rung.models.hub import load_tokenizer

NAMES_TOKENS = re.compile(r".*_tokens?|added_tokens_decoder")


def tokens_in(folder: Path) -> tuple[dict[str, int], bool]:
    """Every token's id, and whether there is a chat template. Raises UserError where there is no tokenizer."""
    file = folder / "tokenizer.json"
    if file.is_file():
        from tokenizers import Tokenizer

        vocabulary = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
        config, added = read(folder / "tokenizer_config.json"), read(folder / "added_tokens.json")
        named = {**read(folder / "special_tokens_map.json"), **config}
        tokens = [
            *added,
            *(t for key, value in named.items() if NAMES_TOKENS.fullmatch(key) for t in strings(value)),
        ]
        if vocabulary.keys() >= set(tokens):
            return vocabulary, "chat_template" in config or (folder / "chat_template.jinja").is_file()
    tokenizer = load_tokenizer(str(folder))
    return tokenizer.get_vocab(), bool(tokenizer.chat_template)


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def strings(value: Any) -> Iterator[str]:
    """The tokens in "</s>", {"content": "</s>", ...}, or a list or table of such."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict) and "content" in value:
        yield value["content"]
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)
