"""What a model says of text it did not write, and how far it has moved from its base: the alignment tax.

Held-out text is scored token by token in packed batches. Long texts are cut into windows, each beginning with the
last token of the one before, so that every token but a text's very first is scored once. Models with different
tokenizers are compared per byte, document by document. KL to the base is measured on continuations that the
model itself samples at temperature 1: only there is the estimate one of KL(model | base).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import exp, inf, log
from typing import Any

import numpy as np
import torch

from rung.batch import Example, collate
from rung.data.documents import Encoder, document_of
from rung.data.files import read_rows
from rung.data.formats import parse_row
from rung.data.pack import pack
from rung.data.rows import PreferenceRow, Row, TextRow
from rung.data.tokens import encode, token_policy
from rung.errors import UserError
from rung.eval.forgetting import KlEstimate, kl_from_samples
from rung.eval.intervals import Estimate, bootstrap
from rung.eval.paired import Comparison, compare
from rung.models.fallback import Model
from rung.models.folder import read_generation_config
from rung.models.hub import load_tokenizer, resolve
from rung.models.load import load_model
from rung.models.policy import score
from rung.pipelines.setup import choose_device, choose_dtype
from rung.rollouts.engine import sample_seed
from rung.rollouts.hf import sampler_for
from rung.rollouts.request import Sampling

MICRO_TOKENS = 4096
WINDOW = 2048  # tokens of a long text that are read together, where the model's context allows


@dataclass(frozen=True)
class TextScore:
    """One entry per document that was scored: its log-prob in nats, the tokens and bytes that share it."""

    name: str
    logprob: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    origins: tuple[str, ...]
    left_out: int  # chats longer than the model's context

    def per_byte(self) -> Estimate:
        """Bits per byte; the interval is over documents."""
        return ratio(-self.logprob / log(2), self.bytes)

    def perplexity(self) -> Estimate:
        """Per token of the model's own tokenizer: comparable between models that share it, and no others."""
        rate = ratio(-self.logprob, self.tokens)
        return Estimate(*(inf if x >= 700 else exp(x) for x in (rate.value, rate.low, rate.high)))


def ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    return bootstrap(lambda units: float(above[units].sum() / below[units].sum()), len(above))


def bits_change(base: TextScore, other: TextScore) -> Comparison:
    """Bits per byte of each document under both; above 0, `other` finds the text harder than `base` does."""

    def values(of: TextScore) -> dict[str, list[float]]:
        bits = -of.logprob / log(2) / of.bytes
        return {origin: [float(value)] for origin, value in zip(of.origins, bits, strict=True)}

    return compare(values(base), values(other))


# ---- a model with all that scoring needs ----


@dataclass(frozen=True)
class Reader:
    name: str
    model: Model
    tokenizer: Any
    encoder: Encoder

    @classmethod
    def open(cls, name: str, precision: str = "auto", device: str = "auto") -> Reader:
        tokenizer, where = load_tokenizer(name), choose_device(device)
        policy = token_policy(tokenizer, read_generation_config(resolve(name)) or None)
        model = load_model(name, choose_dtype(precision, where), where).eval()
        return cls(name, model, tokenizer, Encoder(tokenizer, policy))

    @torch.no_grad()
    def logprobs(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """log p of the trained tokens of each example, float64."""
        found: list[np.ndarray] = [np.empty(0)] * len(examples)
        lengths = [len(example) for example in examples]
        for members in pack(lengths, max(MICRO_TOKENS, *lengths)):
            batch = collate([examples[i] for i in members]).to(self.model.head_weight.device)
            scores = score(self.model, batch)
            logprob_M, document_M = scores.logprob_M.double().cpu().numpy(), scores.document_M.cpu().numpy()
            for place, i in enumerate(members):
                found[i] = logprob_M[document_M == place]
        return found

    def logprobs_of_texts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Of plain texts, an empty array for one without a token to score."""
        pieces = [pieces_of(self, TextRow(text, "text"), self.model.config.context)[0] for text in texts]
        if not any(pieces):
            return [np.empty(0) for _ in texts]
        found = iter(self.logprobs([piece for part in pieces for piece in part]))
        return [np.concatenate([np.empty(0), *(next(found) for _ in part)]) for part in pieces]

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def read_documents(file: str, most: int | None = None) -> list[Row]:
    """Rows of text, chats or prompts with completions; the first `most` of them."""
    rows = [parse_row(raw, origin) for raw, origin in islice(read_rows(file), most)]
    for row in rows:
        if isinstance(row, PreferenceRow):
            raise UserError(
                f"{row.origin}: is a pair, and text is scored as it stands; give rows of text or chats"
            )
    return rows


def score_text(reader: Reader, rows: Sequence[Row]) -> TextScore:
    """Every document under one model."""
    context = reader.model.config.context
    kept = []
    for row in rows:
        pieces, size = pieces_of(reader, row, context)
        if pieces and all(len(piece) <= context for piece in pieces) and size:
            kept.append((row.origin, pieces, size))
    if not kept:
        raise UserError(f"{reader.name}: no document has a token to score within the context of {context}")
    found = iter(reader.logprobs([piece for _, pieces, _ in kept for piece in pieces]))
    logprobs = [np.concatenate([next(found) for _ in pieces]) for _, pieces, _ in kept]
    return TextScore(
        reader.name,
        np.array([each.sum() for each in logprobs]),
        np.array([len(each) for each in logprobs]),
        np.array([size for _, _, size in kept]),
        tuple(origin for origin, _, _ in kept),
        len(rows) - len(kept),
    )


def pieces_of(reader: Reader, row: Row, context: int) -> tuple[list[Example], int]:
    """What the model reads of a document, trained where it is scored, and the bytes of what is scored."""
    if isinstance(row, TextRow):
        [ids] = encode(reader.tokenizer, [row.text])
        whole = reader.encoder.policy.begin(ids)
        unscored = 0 if len(whole) > len(ids) else len(reader.text(ids[:1]).encode())
        size = len(row.text.encode("utf-8", "surrogatepass")) - unscored
        return windows(whole, min(context, WINDOW), row.origin), size
    assert not isinstance(row, PreferenceRow)  # read_documents refuses it
    [made] = reader.encoder.examples([document_of(row)])
    if isinstance(made, UserError):
        raise made
    return made, sum(len(reader.text(e.token_ids[e.trained].tolist()).encode()) for e in made)


def windows(ids: Sequence[int], width: int, origin: str) -> list[Example]:
    """Pieces of at most `width` tokens; the first token of each is read and not scored."""
    starts = range(0, max(len(ids) - 1, 0), width - 1)
    pieces = [np.array(ids[start : start + width], np.int32) for start in starts]
    return [Example(piece, np.arange(len(piece)) > 0, origin) for piece in pieces]


# ---- distance from the base ----


def kl_to_base(
    reader: Reader,
    base: Reader,
    rows: Sequence[Row],
    *,
    tokens: int = 64,
    prompt_tokens: int = 32,
    seed: int = 0,
) -> KlEstimate:
    """KL(model | base) per token, on what the model writes after the beginning of each document.

    A chat begins with all that stands before its last trained part; of a text the first `prompt_tokens` tokens.
    """
    context = min(reader.model.config.context, base.model.config.context)
    prompts = [
        ids for row in rows if 0 < len(ids := beginning(reader, row, prompt_tokens)) <= context - tokens
    ]
    if not prompts:
        raise UserError(
            f"no document leaves room for {tokens} tokens in a context of {context}; ask for fewer"
        )
    for row in rows:
        if beginning(base, row, prompt_tokens) != beginning(reader, row, prompt_tokens):
            raise UserError(
                f"{row.origin}: {reader.name} and {base.name} do not read it as the same tokens, and KL compares "
                "distributions over the same ones. Name a base with the same tokenizer"
            )
    sampler = sampler_for(reader.model, tokenizer=reader.tokenizer)
    stops = reader.encoder.policy.stop_ids
    asked = [Sampling(tokens, stop_ids=stops, seed=sample_seed(seed, i, 0)) for i in range(len(prompts))]
    completions = [sampler.submit(ids, one) for ids, one in zip(prompts, asked, strict=True)]
    while sampler.busy:
        sampler.step()
    if hasattr(sampler, "sleep"):
        sampler.sleep()
    examples = []
    for ids, completion in zip(prompts, completions, strict=True):
        whole = np.array([*ids, *completion.token_ids], np.int32)
        examples.append(Example(whole, np.arange(len(whole)) >= len(ids), "sample"))
    return kl_from_samples(reader.logprobs(examples), base.logprobs(examples), seed)


def beginning(reader: Reader, row: Row, tokens: int) -> list[int]:
    if isinstance(row, TextRow):
        return reader.encoder.policy.begin(encode(reader.tokenizer, [row.text])[0])[:tokens]
    pieces, _ = pieces_of(reader, row, 0)
    trained = np.flatnonzero(pieces[-1].trained)
    last = trained[-1]
    while last > 0 and pieces[-1].trained[last - 1]:
        last -= 1
    return pieces[-1].token_ids[:last].tolist()
