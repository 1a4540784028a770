"""Judged answers as pairs: each answer beside a mismatched one, the answer that another prompt received.

KTO's reference point is how much likelier the policy has made answers in general, which it estimates on
answers that have nothing to do with their prompt. The partner is fixed by the data: the answer of the last
earlier row with another prompt (the first rows go round to the end). So the reference log-probs of
mismatched answers are computed once and cached like all others, and prompt and pair share one forward.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rung.batch import Example, Feedback, Pair
from rung.errors import UserError


def judged_pairs(feedback: Sequence[Feedback], max_length: int) -> tuple[list[Pair], list[bool]]:
    """(answer, mismatched answer) for each row, and the thumbs."""
    labels = [one.label for one in feedback]
    if len(set(labels)) < 2:
        word = "true" if labels and labels[0] else "false"
        raise UserError(
            f"All {len(labels):,} labels are {word}, and kto weighs good answers against bad ones. "
            "Add rows of the other label; good answers alone are for rung sft."
        )
    prompts = [prompt_of(one.example) for one in feedback]
    partners = other_prompts(prompts)
    pairs = [
        Pair(one.example, mismatched(prompt, feedback[partner].example, max_length, one.example.origin))
        for one, prompt, partner in zip(feedback, prompts, partners, strict=True)
    ]
    return pairs, labels


def other_prompts(prompts: Sequence[np.ndarray]) -> list[int]:
    """For each row the nearest earlier one with another prompt, going round."""
    keys = [prompt.tobytes() for prompt in prompts]
    if len(set(keys)) < 2:
        raise UserError(
            f"All {len(keys):,} rows have one prompt, and kto's reference point needs answers to another one. "
            "Add rows with other prompts, or pair the answers for rung dpo."
        )
    partners = [0] * len(keys)
    last = max(i for i in range(len(keys)) if keys[i] != keys[0])
    for i, key in enumerate(keys):
        if i and keys[i - 1] != key:
            last = i - 1
        partners[i] = last
    return partners


def prompt_of(example: Example) -> np.ndarray:
    return example.token_ids[: int(example.trained.argmax())]


def mismatched(prompt: np.ndarray, donor: Example, max_length: int, origin: str) -> Example:
    """The donor's answer after another prompt, its end cut where the two are too long together."""
    start = int(donor.trained.argmax())
    ids = np.concatenate([prompt, donor.token_ids[start:]])[:max_length]
    trained = np.concatenate([np.zeros(len(prompt), bool), donor.trained[start:]])[:max_length]
    return Example(ids, trained, f"{origin} with the answer of {donor.origin}")
