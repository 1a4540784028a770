"""Data specs to examples in memory: read, parse, tokenise, fit to length, count.

Three kinds of signal share one path: demonstrations (`Example`), preferences (`Pair`) and feedback
(`Feedback`); `kinds` tells them apart. Training stops at the first row that cannot be used; `rung data check`
passes `on_error` and sees them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from transformers import PreTrainedTokenizerBase as Tokenizer

from rung.batch import Example, Feedback, Pair
from rung.data.documents import Document, Encoder
from rung.data.files import RawRow, scan, weights_of
from rung.data.formats import parse_row
from rung.data.kinds import DEMONSTRATIONS, FEEDBACK, PREFERENCES, Kind
from rung.data.report import Report, Tally
from rung.data.rows import HistoryThinking, Overlong, Row
from rung.data.tokens import token_policy
from rung.data.truncate import Dropped, truncate
from rung.errors import UserError

CHUNK = 512  # rows tokenised in one call: large enough for the tokenizer's threads

Item = TypeVar("Item")
OnError = Callable[[UserError], None]


@dataclass(frozen=True)
class Demonstrations:
    """Examples of all sources, one source after the other; `mixture.epoch_order` walks through them."""

    examples: list[Example]
    sizes: list[int]  # examples per source
    weights: list[float] | None
    report: Report
    digest: str  # of every token and mask in order: equal digests train alike


@dataclass(frozen=True)
class Preferences:
    pairs: list[Pair]
    sizes: list[int]
    weights: list[float] | None
    report: Report
    digest: str


@dataclass(frozen=True)
class Judgements:
    feedback: list[Feedback]
    sizes: list[int]
    weights: list[float] | None
    report: Report
    digest: str


def load_examples(
    specs: Sequence[str],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    overlong: Overlong = "drop",
    history_thinking: HistoryThinking = "template",
    generation_config: dict | None = None,
) -> Demonstrations:
    """Demonstrations for supervised training; preference rows give their chosen answer."""
    encoder = Encoder(tokenizer, token_policy(tokenizer, generation_config), history_thinking)
    return Demonstrations(*load(specs, DEMONSTRATIONS, encoder, max_length, overlong))


def load_pairs(
    specs: Sequence[str],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    overlong: Overlong = "drop",
    history_thinking: HistoryThinking = "template",
    generation_config: dict | None = None,
) -> Preferences:
    """Pairs for preference methods; chosen and rejected begin with the same prompt tokens."""
    encoder = Encoder(tokenizer, token_policy(tokenizer, generation_config), history_thinking)
    return Preferences(*load(specs, PREFERENCES, encoder, max_length, overlong))


def load_feedback(
    specs: Sequence[str],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    overlong: Overlong = "drop",
    history_thinking: HistoryThinking = "template",
    generation_config: dict | None = None,
) -> Judgements:
    """Judged answers for methods that learn from thumbs up and down."""
    encoder = Encoder(tokenizer, token_policy(tokenizer, generation_config), history_thinking)
    return Judgements(*load(specs, FEEDBACK, encoder, max_length, overlong))


def load(
    specs: Sequence[str], kind: Kind[Item], encoder: Encoder, max_length: int, overlong: Overlong
) -> tuple[list[Item], list[int], list[float] | None, Report, str]:
    """All sources of one kind, or a UserError when nothing is left."""
    weights = weights_of(list(specs))
    tally = Tally()
    items: list[Item] = []
    sizes = []
    for spec in specs:
        before = len(items)
        items += collect(spec, kind, encoder, max_length, overlong, tally, on_error=stop)
        sizes.append(len(items) - before)
    if not items:
        reasons = "; ".join(f"{count} {reason}" for reason, count in tally.drops.items())
        raise UserError(f"{', '.join(specs)}: no row is left to train on ({reasons}).")
    return items, sizes, weights, tally.report(), tally.stream.hexdigest()


def stop(error: UserError) -> None:
    raise error


def collect(
    spec: str,
    kind: Kind[Item],
    encoder: Encoder,
    max_length: int,
    overlong: Overlong,
    tally: Tally,
    on_error: OnError,
) -> Iterator[Item]:
    """The items of one source, counted in `tally`."""
    for row, examples in tokenised(spec, kind, encoder):
        tally.rows += 1
        if isinstance(examples, Dropped):
            tally.drops[examples.reason] += 1
            continue
        try:
            if isinstance(examples, UserError) or isinstance(row, UserError):
                raise examples if isinstance(examples, UserError) else row  # type: ignore[misc]
            made = kind.build(row, examples)
        except UserError as error:
            tally.refused += 1
            on_error(error)
            continue
        tally.forks += sum(len(of_document) - 1 for of_document in examples)
        fitting = list(fit(kind, made, max_length, overlong, tally))
        if fitting:
            tally.keep([example for item in fitting for example in kind.examples(item)])
        yield from fitting


def fit(
    kind: Kind[Item], items: Sequence[Item], max_length: int, overlong: Overlong, tally: Tally
) -> Iterator[Item]:
    """Items whose examples all fit; a pair with one answer too long is dropped whole."""
    for item in items:
        before = kind.examples(item)
        after = [truncate(example, max_length, overlong) for example in before]
        dropped = next((one for one in after if isinstance(one, Dropped)), None)
        if dropped:
            tally.drops[dropped.reason] += 1
            continue
        kept = [one for one in after if isinstance(one, Example)]
        tally.truncated += sum(len(one) < len(old) for one, old in zip(kept, before, strict=True))
        yield kind.rebuild(item, kept)


def tokenised(
    spec: str, kind: Kind[Item], encoder: Encoder
) -> Iterator[tuple[Row | UserError, list[list[Example]] | Dropped | UserError]]:
    """Rows with the examples of each of their documents, or with what is wrong."""
    source = scan(spec)
    while chunk := list(islice(source, CHUNK)):
        rows = [parsed(raw, origin) for raw, origin in chunk]
        wanted = [row if isinstance(row, UserError) else documents(kind, row) for row in rows]
        made = iter(encoder.examples([one for part in wanted if isinstance(part, list) for one in part]))
        for row, part in zip(rows, wanted, strict=True):
            if not isinstance(part, list):
                yield row, part
                continue
            results = [next(made) for _ in part]
            error = next((one for one in results if isinstance(one, UserError)), None)
            yield row, error or [one for one in results if isinstance(one, list)]


def parsed(raw: RawRow | UserError, origin: str) -> Row | UserError:
    if isinstance(raw, UserError):
        return raw
    try:
        return parse_row(raw, origin)
    except UserError as error:
        return error


def documents(kind: Kind, row: Row) -> list[Document] | Dropped | UserError:
    try:
        return kind.documents(row)
    except UserError as error:
        return error
