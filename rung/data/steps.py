"""Answers whose steps are judged one by one: which token a step ends at, and the label there.

    {"prompt": "2 + 3 * 4?", "completions": ["3 * 4 = 12", "2 + 12 = 15"], "labels": [true, false]}

A row is rendered like any prompted answer, its steps joined by the text that ends one. The mark of a step is the
token that holds the last character of that text; of the last step, its own last character. A label is true or
false, or a share between 0 and 1 for a soft one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase as Tokenizer

from rung.batch import Example
from rung.data.documents import Encoder, answer_document
from rung.data.files import read_rows, weights_of
from rung.data.formats import parse_completion
from rung.data.messages import kind, refuse
from rung.data.rows import HistoryThinking, Overlong
from rung.data.tokens import decode, token_policy
from rung.data.truncate import Dropped, truncate
from rung.errors import UserError

LABEL = "label"  # the column of an example


@dataclass(frozen=True)
class Steps:
    examples: list[Example]  # trained at the marks only, with the column `label`
    sizes: list[int]
    weights: list[float] | None
    digest: str
    dropped: int  # too long


def load_steps(
    specs: Sequence[str],
    tokenizer: Tokenizer,
    *,
    step_end: str,
    max_length: int,
    overlong: Overlong = "drop",
    history_thinking: HistoryThinking = "template",
    generation_config: dict | None = None,
) -> Steps:
    """All rows of all files, or a UserError at the first that cannot be used."""
    import hashlib

    encoder = Encoder(tokenizer, token_policy(tokenizer, generation_config), history_thinking)
    found: list[Example] = []
    total, sizes, dropped = hashlib.sha256(), [], 0
    for spec in specs:
        before = len(found)
        for row, origin in read_rows(spec):
            fitted = fit(judged_steps(row, origin, encoder, step_end), max_length, overlong)
            if isinstance(fitted, Dropped):
                dropped += 1
                continue
            for part in (fitted.token_ids, fitted.trained, fitted.columns[LABEL]):
                total.update(part.tobytes())
            found.append(fitted)
        sizes.append(len(found) - before)
    if not found:
        raise UserError(f"{', '.join(specs)}: no row is left to train on ({dropped} too long).")
    return Steps(found, sizes, weights_of(list(specs)), total.hexdigest(), dropped)


def judged_steps(row: dict[str, Any], origin: str, encoder: Encoder, step_end: str) -> Example:
    steps, labels = parse_steps(row, origin, step_end)
    prompt = row.get("prompt")
    whole = parse_completion({**row, "prompt": prompt, "completion": step_end.join(steps)}, origin)
    [made] = encoder.examples([answer_document(whole.prompt, whole.completion, origin, whole.tools)])
    if isinstance(made, UserError):
        raise made
    if len(made) > 1:
        refuse(origin, "prompt", "is rewritten by the chat template, so the steps have no one context.")
    return labelled(made[0], marks(made[0], steps, step_end, encoder.tokenizer), labels)


def parse_steps(row: dict[str, Any], origin: str, step_end: str) -> tuple[list[str], list[float]]:
    if not step_end:
        raise UserError("--step-end is empty, and something must end a step. Write for example '\\n\\n'.")
    missing = [name for name in ("prompt", "completions", "labels") if row.get(name) is None]
    if missing:
        raise UserError(f"{origin}: has no {missing[0]}; a judged row has prompt, completions and labels.")
    steps, labels = row["completions"], row["labels"]
    for name, value in (("completions", steps), ("labels", labels)):
        if not isinstance(value, list) or not value:
            refuse(origin, name, f"is {kind(value)}; write a list with an entry for each step.")
    if len(steps) != len(labels):
        refuse(
            origin, "labels", f"has {len(labels)} entries for {len(steps)} completions; give each step one."
        )
    for step in steps:
        if not isinstance(step, str) or not step.strip():
            refuse(origin, "completions", f"holds {step!r}; every step is a text that says something.")
        if step_end in step:
            refuse(origin, "completions", f"has a step that holds the end of a step, {step_end!r}; split it.")
    for label in labels:
        if not isinstance(label, bool | int | float) or not 0 <= label <= 1:
            refuse(origin, "labels", f"holds {label!r}; write true or false, or a share from 0 to 1.")
    return steps, [float(label) for label in labels]


def marks(answered: Example, steps: Sequence[str], step_end: str, tokenizer: Tokenizer) -> list[int]:
    """The token at which each step ends."""
    start = int(answered.trained.argmax())
    ids, text = answered.token_ids[start:].tolist(), step_end.join(steps)
    skipped = decode(tokenizer, ids).find(text)
    if skipped < 0:
        raise UserError(
            f"{answered.origin}: the chat template changes the answer's text, so its steps cannot be found again. "
            "Remove white space at its start and end, or write prompt and completions as strings."
        )
    found, end = [], skipped
    for number, step in enumerate(steps):
        end += len(step) + len(step_end) * (number < len(steps) - 1)
        found.append(start + first_token_reaching(ids, end, tokenizer))
    return found


def first_token_reaching(ids: list[int], characters: int, tokenizer: Tokenizer) -> int:
    """Index of the token with which the text of `ids` grows to so many characters."""
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        said = decode(tokenizer, ids[:middle])
        whole = len(said.rstrip("\N{REPLACEMENT CHARACTER}"))  # half a character is none yet
        low, high = (low, middle) if whole >= characters else (middle + 1, high)
    return low - 1


def labelled(answered: Example, places: Sequence[int], labels: Sequence[float]) -> Example:
    trained = np.zeros(len(answered), bool)
    trained[list(places)] = True
    column = np.zeros(len(answered), np.float32)
    column[list(places)] = labels
    return replace(answered, trained=trained, columns={LABEL: column})


def fit(example: Example, max_length: int, overlong: Overlong) -> Example | Dropped:
    """Cut where asked to; steps beyond the cut lose their marks."""
    fitted = truncate(example, max_length, overlong)
    if isinstance(fitted, Dropped):
        return fitted
    return replace(fitted, columns={LABEL: example.columns[LABEL][: len(fitted)]})
