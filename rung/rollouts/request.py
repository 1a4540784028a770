"""What a sampler is asked and what it answers: the same for the engine, transformers and vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from rung.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. The cuts apply in this order, each on what the one before left:

    repetition penalty, logit bias, minimum length, temperature, top-k, top-p, min-p.
    """

    max_tokens: int = 256
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # the smallest set of tokens with at least this mass
    stop_ids: tuple[int, ...] = ()
    seed: int = 0
    top_k: int = 0  # the k likeliest tokens; 0 keeps all
    min_p: float = 0.0  # tokens at least this share as likely as the likeliest
    repetition_penalty: float = 1.0  # divides positive and multiplies negative logits of tokens seen before
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, added to its logit)
    min_tokens: int = 0  # no stop id before this many
    stop_strings: tuple[str, ...] = ()  # end with the token that completes one of them
    entropy: bool = False  # report the entropy of the model's own distribution at every token
    top_logprobs: int = 0  # report this many likeliest tokens of it

    @property
    def cuts(self) -> bool:
        """Whether tokens are drawn from anything else than softmax(logits / temperature)."""
        plain = (0, 1.0, 0.0, 1.0, (), 0)
        own = (self.top_k, self.top_p, self.min_p, self.repetition_penalty, self.logit_bias, self.min_tokens)
        return own != plain


@dataclass
class Completion:
    """An answer, growing while it is sampled. Lists have one entry per token."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    key: Any = None  # whatever the caller wants to know it by
    token_ids: list[int] = field(default_factory=list)
    sampler_logprob: list[float] = field(default_factory=list)  # under the distribution drawn from
    policy_logprob: list[float] = field(default_factory=list)  # under the model itself
    entropy: list[float] = field(default_factory=list)
    top: list[tuple[list[int], list[float]]] = field(default_factory=list)
    version: list[int] = field(default_factory=list)  # of the weights that wrote the token
    finish: Literal["", "stop", "length", "abort"] = ""  # "" while it is being sampled
    digest: str = ""  # of the weights that wrote the last token

    def columns(self) -> dict[str, np.ndarray]:
        """The numbers of its tokens as arrays, named and typed as in `rung.batch.Rollout`."""
        entropy = self.entropy or [np.nan] * len(self.token_ids)
        return {
            "token_ids": np.array(self.token_ids, np.int32),
            "sampler_logprob": np.array(self.sampler_logprob, np.float32),
            "policy_logprob": np.array(self.policy_logprob, np.float32),
            "entropy": np.array(entropy, np.float32),
            "version": np.array(self.version, np.int32),
        }


class Sampler(Protocol):
    """Anything that completes prompts: `rollouts.engine.Engine`, `rollouts.hf.HfSampler`, `rollouts.vllm`."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int = 1
    ) -> list[list[Completion]]:
        """n answers to each prompt, all under the weights as they are now."""
        ...


class Stepped(Protocol):
    """A sampler that is asked and then stepped, so that every answer can be dealt with as it ends."""

    version: int

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together, at most."""
        ...

    @property
    def busy(self) -> bool: ...

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Queue a prompt; the completion that comes back is filled by the steps."""
        ...

    def step(self) -> list[Completion]:
        """Sample on; the answers that ended."""
        ...


def check(prompts: Sequence[Sequence[int]], sampling: Sampling, *, context: int, vocabulary: int) -> None:
    """Refuse what cannot be sampled before anything is."""
    s = sampling
    if s.temperature < 0 or not 0 < s.top_p <= 1 or s.max_tokens < 1:
        raise UserError(
            f"Cannot sample {s.max_tokens} tokens at temperature {s.temperature} with top-p {s.top_p}. "
            "Write at least 1 token, a temperature of 0 (greedy) or more, 0 < top-p <= 1."
        )
    if s.top_k < 0 or not 0 <= s.min_p <= 1 or not s.repetition_penalty > 0:
        raise UserError(
            f"Cannot sample with top-k {s.top_k}, min-p {s.min_p} and a repetition penalty of "
            f"{s.repetition_penalty}. Write top-k 0 (off) or more, 0 <= min-p <= 1 and a penalty above 0."
        )
    if not 0 <= s.min_tokens <= s.max_tokens:
        raise UserError(f"min_tokens {s.min_tokens} must lie between 0 and max_tokens {s.max_tokens}.")
    if not 0 <= s.top_logprobs <= vocabulary:
        raise UserError(
            f"top_logprobs {s.top_logprobs} must lie between 0 and the {vocabulary} tokens there are."
        )
    if "" in s.stop_strings:
        raise UserError("A stop string is empty: every answer would end at once. Leave it out.")
    strange = [token for token, _ in s.logit_bias if not 0 <= token < vocabulary]
    if strange:
        raise UserError(f"logit_bias names token {strange[0]}, but the model knows 0 to {vocabulary - 1}.")
    for number, prompt in enumerate(prompts, 1):
        which = f"Prompt {number} of {len(prompts)}"
        if not len(prompt):
            raise UserError(f"{which} is empty: there is no token to continue from. Give it at least one.")
        if len(prompt) + s.max_tokens > context:
            raise UserError(
                f"{which} has {len(prompt)} tokens; with {s.max_tokens} new ones that exceeds the "
                f"model's context of {context}. Shorten it or ask for fewer new tokens "
                f"(at most {max(context - len(prompt), 0)})."
            )
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise UserError(
                f"{which} has token ids from {min(prompt)} to {max(prompt)}, but the model knows 0 to "
                f"{vocabulary - 1}. Encode it with the model's own tokenizer."
            )
