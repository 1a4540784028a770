"""`rung eval text` and `rung eval contamination`: what training cost elsewhere, and whether the test was in the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from rung.errors import UserError

if TYPE_CHECKING:
    from rung.pipelines.evaluate_text import TextScore

SHOWN = 5  # tasks found in the training data that are listed


@dataclass(frozen=True)
class EvalText:
    """Perplexity of models on held-out text, compared document by document with the first of them or the base.

    With --base also the KL divergence from it, on what each model itself writes after the beginning of each document.
    """

    models: tyro.conf.Positional[tuple[str, ...]]
    """Names, folders, run folders, hub ids or .gguf files."""
    file: str = ""
    """JSONL, JSON or Parquet with texts or chats; of chats the assistant's turns are scored."""
    base: str = ""
    """The model before training: what the others are compared with."""
    documents: int | None = None
    """The first so many rows; null is all."""
    kl_documents: int = 100
    """The first so many rows are continued for the KL divergence."""
    kl_tokens: int = 64
    """Longest continuation."""
    seed: int = 0
    """Of the continuations."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of weights and arithmetic."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto takes a GPU if there is one."""


@dataclass(frozen=True)
class EvalContamination:
    """Look for the held-out tasks of an environment in training data, by n-grams of words."""

    train: str = ""
    """The training data: JSONL, JSON, Parquet or .txt, a folder of these, or a hub id."""
    env: str = ""
    """Whose held-out tasks are looked for."""
    tasks: int | None = None
    """The first so many; null is all."""
    n: int = 13
    """Words of an n-gram. Tasks that are shorter cannot be looked up, and are never called clean."""
    model: str = ""
    """Also compare this model's min-k% prob of the tasks that were found with that of the others."""


def text(settings: EvalText) -> int:
    if not settings.file:
        raise UserError(
            "rung eval text: write rung eval text MODEL... --file FILE.jsonl, with held-out texts or chats"
        )
    from rung.pipelines.evaluate_text import Reader, bits_change, kl_to_base, read_documents, score_text

    rows = read_documents(settings.file, settings.documents)
    base = Reader.open(settings.base, settings.precision, settings.device) if settings.base else None
    scores, distances = [score_text(base, rows)] if base else [], {}
    for name in dict.fromkeys(settings.models):
        if name == settings.base:
            continue
        reader = Reader.open(name, settings.precision, settings.device)  # two models in memory at most
        scores.append(score_text(reader, rows))
        if base:
            some = rows[: settings.kl_documents]
            distances[name] = kl_to_base(reader, base, some, tokens=settings.kl_tokens, seed=settings.seed)
    print(text_table(scores))
    for each in scores:
        if each.left_out:
            print(
                f"{each.name}: {each.left_out} documents left out, longer than the context or without a token to score"
            )
    for other in scores[1:]:
        print(
            f"\n{other.name} - {scores[0].name}, bits per byte by document: {bits_change(scores[0], other)}"
        )
    for name, found in distances.items():
        print(
            f"\nKL({name} | {settings.base}) on its own samples: {found.per_token} nats per token, "
            f"{found.per_answer:.3g} per answer of up to {settings.kl_tokens} tokens"
        )
    return 0


def text_table(scores: Sequence[TextScore]) -> str:
    from rung.eval.report import aligned

    table = [["", "bits per byte", "95 % interval", "perplexity", "95 % interval", "documents", "tokens"]]
    for each in scores:
        bits, perplexity = each.per_byte(), each.perplexity()
        row = [each.name, f"{bits.value:.4f}", f"{bits.low:.4f} to {bits.high:.4f}"]
        row += [f"{perplexity.value:.3f}", f"{perplexity.low:.3f} to {perplexity.high:.3f}"]
        table.append([*row, f"{len(each.logprob):,}", f"{each.tokens.sum():,}"])
    return aligned(table)


def contamination(settings: EvalContamination) -> int:
    if not settings.train or not settings.env:
        raise UserError("rung eval contamination: write --train FILE.jsonl and --env SPEC")
    from rung.pipelines import evaluate_contamination as pipeline
    from rung.pipelines.evaluate import environment_of, held_out

    tasks = held_out(environment_of(settings.env, settings.tasks), settings.tasks)
    found = pipeline.contamination(settings.train, tasks, settings.n)
    result = found.contamination
    print(f"{len(tasks):,} held-out tasks, {found.trained:,} training texts, {settings.n}-grams of words")
    line = f"{result.found:,} of {len(tasks) - result.unknown:,} tasks share an n-gram with the training data"
    if result.share:
        low, value, high = result.share.low, result.share.value, result.share.high
        line += f" = {value:.1%}, 95 % interval {low:.1%} to {high:.1%}"
    print(line)
    if result.unknown:
        print(
            f"{result.unknown:,} tasks have fewer than {settings.n} words of their own: nothing is known of them"
        )
    hits = [(o, task) for o, task in zip(result.overlaps, found.tasks, strict=True) if o.covered > 0]
    for overlap, task in sorted(hits, key=lambda hit: -hit[0].covered)[:SHOWN]:
        print(f"  {overlap.covered:4.0%} of {task.key}: {overlap.longest[:100]}")
    if settings.model:
        from rung.pipelines.evaluate_text import Reader

        seen = pipeline.memorised(found, Reader.open(settings.model).logprobs_of_texts(found.items))
        print(
            f"min-20% prob under {settings.model}: {seen.found:.3f} of tasks that were found, {seen.clean:.3f} of the "
            f"others; a found task scores higher with chance {seen.auc:.2f} (0.5: no sign of memory)"
        )
    return 0
