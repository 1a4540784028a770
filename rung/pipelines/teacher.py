"""From a teacher's name to a teacher: a model in memory, one asked beforehand, or a server. Checked before it is used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from rung import dist
from rung.batch import Batch, Example
from rung.data.vocabulary import Vocabulary, common_vocabulary, tokens_of
from rung.endpoint import Down, Endpoint, Refused, is_url
from rung.errors import UserError
from rung.kernels.linear_divergence import TopK, top_k_and_tail
from rung.models.folder import read_config
from rung.models.hub import cache_folder, load_tokenizer, resolve
from rung.models.load import load_model
from rung.models.policy import trained_sites
from rung.models.taught import Teacher, head_of, live_teacher
from rung.pipelines.endpoint import explained
from rung.pipelines.evaluate_local import weights_digest
from rung.pipelines.setup import Subject
from rung.pipelines.stage import Stage, console
from rung.settings_distill import Distill
from rung.sources.teacher import Asked, in_batches, taught
from rung.sources.teacher_endpoint import MOST, EndpointTeacher
from rung.sources.teacher_process import in_process


def check_teacher(settings: Distill) -> None:
    """What can be said without loading anything."""
    check_name(settings.teacher)
    if not settings.temperature > 0:
        raise UserError(f"--temperature {settings.temperature} divides logits. Write 1, or a number above 0.")
    if settings.top_k < 0:
        raise UserError(f"--top-k is {settings.top_k}. Write 0 for a live teacher, or for example 64.")
    if is_url(settings.teacher):
        if not 0 < settings.top_k <= MOST:
            raise UserError(
                f"A server names at most {MOST} tokens. Write --top-k {MOST} or less, at least 1."
            )
        if settings.temperature != 1:
            raise UserError("A server's log-probs are at temperature 1. Leave --temperature out.")
    elif settings.teacher_process and not settings.top_k:
        raise UserError(
            "--teacher-process scores the data before training and needs --top-k, for example 64."
        )


def check_name(teacher: str) -> None:
    if not teacher:
        raise UserError("No teacher was given. Write --teacher MODEL, a folder, or the address of a server.")


def vocabulary_of(student: str, teacher: str) -> Vocabulary:
    """How the two models' tokens go together, from tokenizers and configs alone. Raises UserError."""
    rows = [_rows(read_config(resolve(name))) for name in (student, teacher)]
    return common_vocabulary(tokens_of(load_tokenizer(student)), tokens_of(load_tokenizer(teacher)), *rows)


def same_teacher(stage: Stage, teacher: str) -> str:
    """The digest of the teacher's weights, to which a continued run is held; "" of a server, whose are not known."""
    if is_url(teacher):
        return ""
    digest = weights_digest(teacher)
    if stage.run and stage.run.config()["teacher_digest"] != digest:
        raise UserError(
            f"{stage.run.path} has learnt from another teacher than {teacher} is now. Put its weights back, or start a "
            f"new run from its checkpoint with --model {stage.latest}."
        )
    return digest


def _rows(config: dict[str, Any]) -> int:
    return int(config.get("vocab_size") or config["text_config"]["vocab_size"])


@dataclass(frozen=True)
class Lesson:
    """A teacher ready to be asked about these documents."""

    examples: list[Example]
    teacher: Teacher
    size: int  # tokens compared
    said: str  # in a line


def prepare(settings: Distill, subject: Subject, examples: Sequence[Example], digest: str) -> Lesson:
    """The teacher of `rung distill`, its cache filled where it has one. `digest` is that of its weights."""
    if is_url(settings.teacher):
        return _from_server(settings, subject, examples)
    common = vocabulary_of(settings.model, settings.teacher)
    words = f"{settings.teacher}, {common.kind} vocabulary of {common.size:,} tokens"
    if not settings.top_k:
        model: Any = load_model(settings.teacher, subject.dtype, subject.device).requires_grad_(False)
        options = {"temperature": settings.temperature, "head_float32": settings.head_float32}
        live = live_teacher(model, common.size, **options)  # type: ignore[arg-type]
        return Lesson(list(examples), live, common.size, f"{words}, live")
    if settings.top_k > common.size:
        raise UserError(
            f"--top-k {settings.top_k} of a vocabulary of {common.size}. Write {common.size} or less."
        )
    identity = [
        digest, str(subject.dtype), str(subject.device), str(common.size),
        str(settings.temperature), str(settings.head_float32),
    ]  # fmt: skip
    start = partial(
        local_top_k, settings.teacher, subject.dtype, str(subject.device), common.size, settings.top_k,
        settings.temperature, settings.head_float32, settings.micro_tokens or 1024,
    )  # fmt: skip
    asked = partial(in_process, start) if settings.teacher_process else start
    return _cached(examples, asked, identity, settings.top_k, common.size, words)


def local_top_k(
    name: str,
    dtype: torch.dtype,
    device: str,
    size: int,
    k: int,
    temperature: float,
    float32: bool,
    tokens: int,
) -> Asked:
    """The model `name`, loaded to be asked once about everything."""
    model: Any = load_model(name, dtype, torch.device(device)).requires_grad_(False).eval()
    head = head_of(model, size, temperature, float32)

    @torch.no_grad()
    def top_k(batch: Batch) -> TopK:
        return top_k_and_tail(trained_sites(model, batch).states_MD, head, k)

    return in_batches(top_k, tokens, device)


def endpoint_teacher(url: str, name: str, tokenizer: Any, first: Example) -> EndpointTeacher:
    """A server that has shown on one document that it can teach."""
    endpoint = Endpoint(url, name)

    def ask(path: str, content: Any) -> Any:
        try:
            return endpoint.ask(path, content)
        except (Down, Refused) as error:
            raise explained([error], endpoint) from error

    teacher = EndpointTeacher(ask, endpoint.model, tokenizer, url)
    teacher.check(first)
    return teacher


def _from_server(settings: Distill, subject: Subject, examples: Sequence[Example]) -> Lesson:
    teacher = endpoint_teacher(settings.teacher, settings.teacher_name, subject.tokenizer, examples[0])
    # Weights cannot be digested from here: another model under the same name and address is not noticed.
    identity = [settings.teacher.rstrip("/"), teacher.model]
    size = subject.model.config.vocabulary  # type: ignore[union-attr]
    k = settings.top_k
    words = f"{teacher.model} at {settings.teacher}, whose tokens read as the student's"
    return _cached(examples, lambda: teacher.top_k(k), identity, k + 1, int(size), words)  # type: ignore[arg-type]


def _cached(
    examples: Sequence[Example],
    start: Callable[[], Asked],
    identity: Sequence[str],
    width: int,
    size: int,
    words: str,
) -> Lesson:
    began, called = time.perf_counter(), []

    def asked() -> Asked:
        called.append(True)
        return _shown(start())

    numbered, teacher = taught(examples, asked, identity, width, cache_folder().parent / "teachers")
    how = f"scored in {time.perf_counter() - began:.0f} s" if called else "found in the cache"
    return Lesson(numbered, teacher, size, f"{words}, top {width} and the rest {how}")


def _shown(asked: Asked) -> Asked:
    """Says how far the scoring is, since a large teacher takes its time."""

    def counting(examples: Sequence[Example]) -> Iterator[TopK]:
        told = time.monotonic()
        for number, answer in enumerate(asked(examples), 1):
            yield answer
            if time.monotonic() - told > 30 and dist.rank() == 0:
                console.print(f"teacher  {number:,} of {len(examples):,} documents", highlight=False)
                told = time.monotonic()

    return counting
