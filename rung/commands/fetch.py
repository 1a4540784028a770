"""`rung fetch`: put a model into the cache, so that everything after works without a network."""

from __future__ import annotations

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Fetch:
    """Put a model into the cache and print its folder."""

    model: tyro.conf.Positional[str] = "smollm2-135m"
    """smollm2-135m, org/name or org/name@revision of the Hugging Face hub, or a .gguf file."""


def main(settings: Fetch) -> int:
    from rung.models.folder import read_config
    from rung.models.hub import load_tokenizer, resolve

    folder = resolve(settings.model)
    read_config(folder)
    load_tokenizer(str(folder))
    print(folder)
    return 0
