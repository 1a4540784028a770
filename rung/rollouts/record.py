"""What one step of sampling adds to its completions, and which of them it ends: the same for every sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rung.data.tokens import decode
from rung.rollouts.draw import Drawn
from rung.rollouts.request import Completion


def record(
    rows: Sequence[Completion], drawn: Drawn, *, version: int, digest: str, tokenizer: Any
) -> list[Completion]:
    """Append row i of what was drawn to `rows[i]`. Returns the rows that ended with it."""
    tokens = drawn.tokens_B.tolist()
    sampler, policy = drawn.sampler_logprob_B.tolist(), drawn.policy_logprob_B.tolist()
    entropy = drawn.entropy_B.tolist() if drawn.entropy_B is not None else None
    ended = []
    for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        row.token_ids.append(token)
        row.sampler_logprob.append(sampler[i])
        row.policy_logprob.append(policy[i])
        row.version.append(version)
        row.digest = digest
        if entropy is not None and row.sampling.entropy:
            row.entropy.append(entropy[i])
        if k := row.sampling.top_logprobs:
            assert drawn.top_ids_Bk is not None and drawn.top_logprobs_Bk is not None
            row.top.append((drawn.top_ids_Bk[i, :k].tolist(), drawn.top_logprobs_Bk[i, :k].tolist()))
        if token in row.sampling.stop_ids or completes_a_stop_string(row, tokenizer):
            row.finish = "stop"
        elif len(row.token_ids) == row.sampling.max_tokens:
            row.finish = "length"
        if row.finish:
            ended.append(row)
    return ended


def completes_a_stop_string(row: Completion, tokenizer: Any) -> bool:
    """Only the tail is decoded: a stop string ends within the newest token, which may hold several letters.

    A token of a byte-level vocabulary may be one byte, so the tail has a token for every byte, and a few more
    because decoders trim the beginning of what they are given.
    """
    if not row.sampling.stop_strings:
        return False
    tail = max(len(s.encode()) for s in row.sampling.stop_strings) + 8
    text = decode(tokenizer, row.token_ids[-tail:])
    return any(s in text for s in row.sampling.stop_strings)
