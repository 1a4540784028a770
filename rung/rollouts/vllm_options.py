"""What `Sampling` is in vLLM's words, and what vLLM cannot do of it.

vLLM applies the options in another order: minimum length, logit bias, repetition penalty, temperature, min-p,
top-k, top-p. Where the order cannot change the distribution the options are handed over, where it can they are
refused, for the same settings must not mean two things.
"""

from __future__ import annotations

from typing import Any

from rung.errors import UserError
from rung.rollouts.request import Sampling

COLDEST, HOTTEST = 0.01, 2.0  # vLLM raises a lower temperature, and refuses a higher one
OURS = "Sample with rung's own engine, or leave it out."


def options_of(sampling: Sampling, *, vocabulary: int, eos: int | None, tokenizer: bool) -> dict[str, Any]:
    """Arguments of vLLM's SamplingParams; UserError naming what it would do otherwise."""
    _refuse(sampling, eos, tokenizer)
    s, bias = sampling, dict[int, float]()
    for token, value in s.logit_bias:
        bias[token] = bias.get(token, 0.0) + value
    return {
        "max_tokens": s.max_tokens,
        "min_tokens": s.min_tokens,
        "temperature": float(s.temperature),
        "top_k": min(s.top_k, vocabulary),
        "top_p": float(s.top_p),
        "min_p": float(s.min_p),
        "repetition_penalty": float(s.repetition_penalty),
        "logit_bias": list(bias.items()),
        "stop_token_ids": [token for token in s.stop_ids if 0 <= token < vocabulary],
        "stop": list(s.stop_strings),
        "seed": s.seed & (1 << 63) - 1,  # as many bits as the engine's dice use
        "own_logprobs_as_sampled": draws_from_the_model_itself(s),
    }


def draws_from_the_model_itself(s: Sampling) -> bool:
    """Whether the log-prob after all options is the model's own, too. vLLM tells a greedy token's uncut."""
    if s.repetition_penalty != 1 or s.logit_bias or s.min_tokens:
        return False
    return s.temperature == 0 or (s.temperature == 1 and not s.cuts and s.top_p == 1)


def _refuse(s: Sampling, eos: int | None, tokenizer: bool) -> None:
    if s.entropy:
        raise UserError(f"vLLM reports no entropy, so entropy=True cannot be answered. {OURS}")
    if 0 < s.temperature < COLDEST or s.temperature > HOTTEST:
        raise UserError(
            f"vLLM samples at temperatures of {COLDEST} to {HOTTEST:g}, or greedily at 0, and not at "
            f"temperature {s.temperature}. Choose another, or sample with rung's own engine."
        )
    if s.min_p > 0 and s.top_p < 1 and s.temperature > 0:
        raise UserError(
            f"vLLM cuts min_p {s.min_p} before top_p {s.top_p}, and rung after it: together they would mean "
            "something else here. Use one of them, or rung's own engine."
        )
    if s.repetition_penalty != 1 and s.logit_bias:
        raise UserError(
            "vLLM applies repetition_penalty after logit_bias, and rung before it: together they would mean "
            "something else here. Use one of them, or rung's own engine."
        )
    if s.stop_strings and not tokenizer:
        raise UserError("stop_strings need a tokenizer, and the model's folder has none. Use stop_ids.")
    if s.stop_strings and s.min_tokens:
        raise UserError(
            f"vLLM looks for stop_strings only after min_tokens {s.min_tokens}, and rung from the first token "
            "on. Use stop_ids, or rung's own engine."
        )
    if s.min_tokens and eos is not None and eos not in s.stop_ids:
        raise UserError(
            f"Until min_tokens {s.min_tokens} vLLM also forbids the tokenizer's end of text, {eos}, which is not "
            "among the stop_ids. Add it to them, or leave min_tokens out."
        )
