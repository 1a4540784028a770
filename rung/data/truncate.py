"""The one place where an example is made to fit a length, for every method.

The default drops what is too long, because a cut answer teaches the model to break off. `truncate` cuts the
end, never the start: the prompt stays whole and equal for both answers of a pair. No example leaves here
without a token to learn; a document's first token does not count, because nothing predicts it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from rung.batch import Example
from rung.data.rows import Overlong
from rung.errors import UserError


@dataclass(frozen=True)
class Dropped:
    """An example that is not used, and why; reports count the reasons."""

    reason: str


def truncate(example: Example, max_length: int, overlong: Overlong = "drop") -> Example | Dropped:
    """The example within `max_length` tokens, or the reason why it is dropped."""
    if overlong not in get_args(Overlong):
        raise UserError(f"overlong is {overlong!r}; write drop or truncate.")
    if max_length < 2:
        raise UserError(
            f"max_length is {max_length}; an example needs a token and one that predicts it, so 2."
        )
    if len(example) > max_length:
        if overlong == "drop":
            return Dropped(f"longer than {max_length} tokens")
        example = replace(
            example, token_ids=example.token_ids[:max_length], trained=example.trained[:max_length]
        )
        if not example.trained[1:].any():
            return Dropped(f"nothing to learn within {max_length} tokens")
    if not example.trained[1:].any():
        return Dropped("nothing to learn: a single token, which nothing predicts")
    return example
